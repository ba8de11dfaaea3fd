//! Output for a person: headings, ticks, small tables. And Ctrl-C, which ends everything in order.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

/// Pause between two looks at something awaited.
const LOOK: Duration = Duration::from_millis(50);

/// Why the demo ends early.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stop {
    /// Something did not work
    #[error("{0}")]
    Failed(String),
    /// Ctrl-C, or SIGTERM, SIGHUP
    #[error("interrupted")]
    Interrupted,
    /// A system call failed
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Where the demo is shown.
pub(super) struct Stage<'a, W> {
    out: &'a mut W,
    colour: bool,
    interrupted: Arc<AtomicBool>,
    failures: usize,
}

impl<'a, W: Write> Stage<'a, W> {
    /// Starts to listen for signals.
    pub(super) fn new(out: &'a mut W) -> io::Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        listen(Arc::clone(&interrupted))?;
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Ok(Self { out, colour, interrupted, failures: 0 })
    }

    fn paint(&self, code: &str, text: impl Display) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    /// A heading of an act.
    pub(super) fn act(&mut self, number: u8, title: &str) -> io::Result<()> {
        let title = self.paint("1", format!("{number}. {title}"));
        writeln!(self.out, "\n{title}")?;
        self.out.flush()
    }

    /// Text as it is.
    pub(super) fn say(&mut self, text: impl Display) -> io::Result<()> {
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// Text that may be passed over.
    pub(super) fn aside(&mut self, text: impl Display) -> io::Result<()> {
        let text = self.paint("2", format!("   {text}"));
        self.say(text)
    }

    /// Something that worked or did not.
    pub(super) fn check(&mut self, worked: bool, text: impl Display) -> io::Result<()> {
        self.failures += usize::from(!worked);
        let mark = if worked { self.paint("32", "✓") } else { self.paint("31", "✗") };
        self.say(format!(" {mark} {text}"))
    }

    /// Something that can't be shown on this machine, which is nobody's failure.
    pub(super) fn skip(&mut self, text: impl Display) -> io::Result<()> {
        let mark = self.paint("33", "○");
        self.say(format!(" {mark} {text}"))
    }

    /// A table: the first row is its head.
    pub(super) fn table(&mut self, rows: &[Vec<String>]) -> io::Result<()> {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width =
            |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        for (index, row) in rows.iter().enumerate() {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell.chars().count())))
                .collect();
            let line = format!("     {}", cells.join("   ").trim_end());
            let line = if index == 0 { self.paint("2", line) } else { line };
            self.say(line)?;
        }
        Ok(())
    }

    /// Waits until `look` says yes; false after `limit`.
    pub(super) fn wait(&self, limit: Duration, mut look: impl FnMut() -> bool) -> Result<bool, Stop> {
        let start = Instant::now();
        loop {
            if self.interrupted.load(Ordering::Relaxed) {
                return Err(Stop::Interrupted);
            }
            if look() {
                return Ok(true);
            }
            if start.elapsed() > limit {
                return Ok(false);
            }
            pause(LOOK);
        }
    }

    /// [`Self::wait`] that ends the demo where it is in vain: what follows would make no sense.
    pub(super) fn need(&mut self, what: &str, limit: Duration, look: impl FnMut() -> bool) -> Result<(), Stop> {
        if self.wait(limit, look)? {
            return Ok(());
        }
        Err(Stop::Failed(format!("waited {} s in vain: {what}", limit.as_secs())))
    }

    /// The last lines, and the exit code.
    pub(super) fn close(mut self, result: &Result<(), Stop>, keep: bool, took: Duration) -> io::Result<ExitCode> {
        let took = took.as_secs_f32();
        match result {
            Ok(()) if self.failures == 0 => {
                let mark = self.paint("32", "✓");
                let left = if keep { "" } else { "; nothing of it is left on this machine" };
                self.say(format!("\n {mark} all of it worked, in {took:.0} s{left}"))?;
                return Ok(ExitCode::SUCCESS);
            }
            Ok(()) => {
                let count = self.failures;
                self.say(format!("\n ✗ {count} thing{} did not work", if count == 1 { "" } else { "s" }))?;
            }
            Err(Stop::Interrupted) => self.say("\n interrupted; everything is taken down")?,
            Err(error) => {
                self.check(false, error)?;
            }
        }
        Ok(ExitCode::FAILURE)
    }
}

/// A wait that nothing ends early.
#[expect(clippy::disallowed_methods, reason = "between two looks at another process, which sends no event")]
pub(super) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Notes the signals that ask a program to end, from now on. Their default, to end at once, would leave
/// namespaces behind.
fn listen(interrupted: Arc<AtomicBool>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let mut signals = {
        let _guard = runtime.enter();
        kinds.into_iter().map(signal).collect::<io::Result<Vec<_>>>()?
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            let any = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
            futures_util::future::select_all(any).await;
            interrupted.store(true, Ordering::Relaxed);
            // Kept alive: dropping a listener would not bring the default back, but nobody would hear.
            std::future::pending::<()>().await;
        });
    });
    Ok(())
}
