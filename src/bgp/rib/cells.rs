//! A set of cells of the table, a bit each, taken out in their order.

#[derive(Debug, Default)]
pub(super) struct Cells {
    words: Vec<u64>,
    count: usize,
    /// No bit is set in words before this
    first: usize,
}

impl Cells {
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn insert(&mut self, cell: u32) {
        let (word, bit) = (cell as usize / 64, 1 << (cell % 64));
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        if self.words[word] & bit == 0 {
            self.words[word] |= bit;
            self.count += 1;
            self.first = self.first.min(word);
        }
    }

    /// Takes out one; false if it was not there.
    pub fn take(&mut self, cell: u32) -> bool {
        let bit = 1 << (cell % 64);
        let Some(word) = self.words.get_mut(cell as usize / 64).filter(|word| **word & bit != 0) else { return false };
        *word &= !bit;
        self.count -= 1;
        if self.count == 0 {
            *self = Self::default();
        }
        true
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        let words = self.words.iter().zip(0..);
        words.flat_map(|(word, n)| (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| n * 64 + bit))
    }

    /// Takes out the first.
    pub fn pop(&mut self) -> Option<u32> {
        while self.count > 0 {
            let word = self.words.get_mut(self.first)?;
            if *word == 0 {
                self.first += 1;
                continue;
            }
            let bit = word.trailing_zeros();
            *word &= *word - 1;
            self.count -= 1;
            // As many as there are cells, which are numbers of four octets
            let cell = u32::try_from(self.first).unwrap_or(u32::MAX) * 64 + bit;
            if self.count == 0 {
                *self = Self::default();
            }
            return Some(cell);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_comes_out_once_in_order() {
        let mut cells = Cells::default();
        for cell in [700, 3, 64, 63, 3, 1_000_000] {
            cells.insert(cell);
        }
        assert_eq!(cells.pop(), Some(3));
        cells.insert(1);
        assert!(cells.iter().eq([1, 63, 64, 700, 1_000_000]));
        cells.insert(699);
        assert!(cells.take(699) && !cells.take(699) && !cells.take(2_000_000));
        let rest: Vec<u32> = std::iter::from_fn(|| cells.pop()).collect();
        assert_eq!((rest, cells.is_empty()), (vec![1, 63, 64, 700, 1_000_000], true));
    }
}
