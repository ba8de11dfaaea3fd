//! Values by number, in segments: growth copies nothing and leaves little unused.
//!
//! A number stays valid until its value is removed and is then given out again.

use std::mem::size_of;

/// Values of a segment.
const SEGMENT: usize = 1024;

#[derive(Debug)]
pub(super) struct Slab<T> {
    /// All full but the last
    segments: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub const fn new() -> Self {
        Self { segments: Vec::new(), free: Vec::new() }
    }

    pub fn insert(&mut self, value: T) -> u32 {
        if let Some(number) = self.free.pop()
            && let Some(place) = self.place(number)
        {
            *place = Some(value);
            return number;
        }
        // Four thousand million values don't fit into memory, so neither does their number wrap.
        let number = u32::try_from(self.numbers()).unwrap_or(u32::MAX);
        match self.segments.last_mut() {
            Some(last) if last.len() < SEGMENT => last.push(Some(value)),
            _ => {
                let mut segment = Vec::with_capacity(SEGMENT);
                segment.push(Some(value));
                self.segments.push(segment);
            }
        }
        number
    }

    pub fn get(&self, number: u32) -> Option<&T> {
        let number = number as usize;
        self.segments.get(number / SEGMENT)?.get(number % SEGMENT)?.as_ref()
    }

    fn place(&mut self, number: u32) -> Option<&mut Option<T>> {
        let number = number as usize;
        self.segments.get_mut(number / SEGMENT)?.get_mut(number % SEGMENT)
    }

    pub fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.place(number)?.as_mut()
    }

    pub fn remove(&mut self, number: u32) -> Option<T> {
        let value = self.place(number)?.take()?;
        self.free.push(number);
        // What has emptied gives its memory back.
        if self.free.len() == self.numbers() {
            *self = Self::new();
        }
        Some(value)
    }

    /// Values there are.
    pub fn len(&self) -> usize {
        self.numbers() - self.free.len()
    }

    /// All numbers in use are below this.
    pub fn numbers(&self) -> usize {
        let full = self.segments.len().saturating_sub(1) * SEGMENT;
        full + self.segments.last().map_or(0, Vec::len)
    }

    /// All values by number.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.segments.iter().flatten().flatten()
    }

    /// Bytes taken, without what values point to.
    pub fn memory(&self) -> usize {
        self.segments.len() * SEGMENT * size_of::<Option<T>>() + self.free.capacity() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_kept_and_used_again() {
        let mut slab = Slab::new();
        let count = 3 * SEGMENT + 5;
        for i in 0..count {
            assert_eq!(slab.insert(i) as usize, i);
        }
        assert_eq!(slab.remove(7), Some(7));
        assert_eq!((slab.get(7).is_none(), slab.remove(7), slab.len(), slab.numbers()), (true, None, count - 1, count));
        assert_eq!(slab.insert(700), 7, "a free number is used again");
        assert!((0..).zip(slab.iter()).all(|(i, value)| *value == if i == 7 { 700 } else { i }));
        for i in 0..count {
            slab.remove(u32::try_from(i).unwrap());
        }
        assert_eq!((slab.memory(), slab.numbers()), (0, 0), "nothing takes nothing");
    }
}
