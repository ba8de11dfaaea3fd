//! Lines that are appended to a file of bounded size: when it is full it becomes the former one, and the
//! former one before that is gone.
//!
//! A thread writes, so that a disk that hangs keeps nobody waiting. Nothing is synced: what the kernel has taken
//! outlives the process, and these lines are not worth a write to the disk each.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use tokio::sync::oneshot;

/// Texts that may wait for the thread.
const QUEUE: usize = 64;

enum Command {
    Append(String),
    Flush(oneshot::Sender<()>),
}

/// The way to the thread, which ends when this is dropped.
#[derive(Debug)]
pub struct Lines {
    queue: SyncSender<Command>,
}

impl Lines {
    /// Starts the thread. `limit`: bytes of a file
    /// to which nothing more is appended; what comes at once stays together, however long. `trouble` is told once why lines can't be
    /// written, and once that they can again.
    pub fn open(
        path: PathBuf,
        limit: u64,
        trouble: impl FnMut(Option<&io::Error>) + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, commands) = sync_channel(QUEUE);
        let appender = Appender { former: former(&path), path, limit, file: None, failed: false };
        std::thread::Builder::new().name("journal".to_owned()).spawn(move || appender.run(&commands, trouble))?;
        Ok(Self { queue })
    }

    /// Hands over whole lines; whether there was room for them.
    pub fn append(&self, lines: String) -> bool {
        self.queue.try_send(Command::Append(lines)).is_ok()
    }

    /// Answers when all that was appended is written, or can't be.
    pub fn flush(&self) -> oneshot::Receiver<()> {
        let (done, flushed) = oneshot::channel();
        // A queue that is full is not going to be written soon.
        let _ = self.queue.try_send(Command::Flush(done));
        flushed
    }
}

/// What stands in both files, the older first; a file that isn't there is an empty one.
pub fn read(path: &Path) -> io::Result<String> {
    let one = |path: &Path| match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    };
    // A crash may have cut off the end of either.
    Ok(format!("{}\n{}", one(&former(path))?, one(path)?))
}

/// `events.jsonl` → `events.1.jsonl`.
fn former(path: &Path) -> PathBuf {
    let extension = path.extension().map(|extension| extension.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_extension(format!("1.{extension}"))
}

struct Appender {
    path: PathBuf,
    former: PathBuf,
    limit: u64,
    /// The file and its size
    file: Option<(File, u64)>,
    failed: bool,
}

impl Appender {
    fn run(mut self, commands: &Receiver<Command>, mut trouble: impl FnMut(Option<&io::Error>)) {
        while let Ok(first) = commands.recv() {
            let (mut lines, mut waiting) = (String::new(), Vec::new());
            for command in std::iter::once(first).chain(commands.try_iter()) {
                match command {
                    Command::Append(more) => lines.push_str(&more),
                    Command::Flush(done) => waiting.push(done),
                }
            }
            match self.append(&lines) {
                Ok(()) if self.failed && !lines.is_empty() => {
                    self.failed = false;
                    trouble(None);
                }
                Err(error) => {
                    // What is there of a line that was cut off is ended when the file is opened again.
                    self.file = None;
                    if !std::mem::replace(&mut self.failed, true) {
                        trouble(Some(&error));
                    }
                }
                Ok(()) => {}
            }
            for done in waiting {
                // Who asked may have gone.
                let _ = done.send(());
            }
        }
    }

    fn append(&mut self, lines: &str) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let more = lines.len() as u64;
        let (_, size) = self.open()?;
        if *size > 0 && *size + more > self.limit {
            fs::rename(&self.path, &self.former)?;
            self.file = None;
        }
        let (file, size) = self.open()?;
        file.write_all(lines.as_bytes())?;
        *size += more;
        Ok(())
    }

    fn open(&mut self) -> io::Result<&mut (File, u64)> {
        let file = match self.file.take() {
            Some(file) => file,
            None => open(&self.path)?,
        };
        Ok(self.file.insert(file))
    }
}

/// The file to append to, which ends in a whole line, and its size.
fn open(path: &Path) -> io::Result<(File, u64)> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let mut size = file.metadata()?.len();
    if size > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            size += 1;
        }
    }
    Ok((file, size))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn line(n: u32) -> String {
        format!("line {n:04}\n")
    }

    #[tokio::test]
    async fn two_files_of_bounded_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/events.jsonl");
        let lines = Lines::open(path.clone(), 100, |_| panic!("no trouble")).unwrap();
        for n in 0..100 {
            assert!(lines.append(line(n)));
            lines.flush().await.unwrap();
        }
        let text = read(&path).unwrap();
        let kept: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        assert!((11..=20).contains(&kept.len()), "between one file and two: {}", kept.len());
        assert_eq!(kept.last(), Some(&"line 0099"));
        assert!(kept.is_sorted(), "the older file comes first");
        let sizes = fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
        let sizes: Vec<u64> = sizes.collect();
        assert!(sizes.len() == 2 && sizes.iter().all(|size| *size <= 100), "{sizes:?}");
    }

    #[tokio::test]
    async fn a_line_that_a_crash_cut_off_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        fs::write(&path, "line 0001\nline 00").unwrap();
        let lines = Lines::open(path.clone(), 1000, |_| panic!("no trouble")).unwrap();
        lines.append(line(3));
        lines.flush().await.unwrap();
        assert_eq!(read(&path).unwrap().trim(), "line 0001\nline 00\nline 0003");
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_written_is_told_of_once_and_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        fs::create_dir(&path).unwrap();
        let (tell, told) = channel();
        let trouble = move |error: Option<&io::Error>| tell.send(error.map(ToString::to_string)).unwrap();
        let lines = Lines::open(path.clone(), 1000, trouble).unwrap();
        for n in 0..3 {
            lines.append(line(n));
            lines.flush().await.unwrap();
        }
        fs::remove_dir(&path).unwrap();
        lines.append(line(4));
        lines.flush().await.unwrap();
        let told: Vec<Option<String>> = told.try_iter().collect();
        assert!(matches!(&told[..], [Some(_), None]), "{told:?}");
        assert_eq!(read(&path).unwrap().trim(), "line 0004");
    }
}
