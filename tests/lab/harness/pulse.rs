//! How late the machine itself lets anybody run: what no daemon on it can do better.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, gettid};

use super::wait::pause;

/// Between two looks at the clock.
const BEAT: Duration = Duration::from_millis(2);

/// A delay that somebody else may feel too.
const STANDSTILL: Duration = Duration::from_millis(5);

/// One thread per processor that does nothing but wake up, before everybody else.
pub struct Pulse {
    over: Arc<AtomicBool>,
    /// Longest delay since the last look, in microseconds
    worst: Arc<AtomicU64>,
    /// Delays of more than [`STANDSTILL`] since then
    standstills: Arc<AtomicU32>,
    /// It is permitted to go before everybody else
    pub real_time: bool,
    threads: Vec<JoinHandle<()>>,
}

impl Pulse {
    pub fn start() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (worst, standstills) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU32::new(0)));
        let (tell, told) = std::sync::mpsc::channel();
        let cores = std::thread::available_parallelism().unwrap().get();
        let beat = |core: usize| {
            let (over, tell) = (Arc::clone(&over), tell.clone());
            let (worst, standstills) = (Arc::clone(&worst), Arc::clone(&standstills));
            std::thread::spawn(move || {
                let mut here = CpuSet::new();
                here.set(core).unwrap();
                // Refused where the processors are not numbered from 0: then it is wherever it is.
                let _ = sched_setaffinity(Pid::from_raw(0), &here);
                let raised = Command::new("chrt").args(["-f", "-p", "50", &gettid().to_string()]).output();
                tell.send(raised.is_ok_and(|output| output.status.success())).unwrap();
                while !over.load(Ordering::Relaxed) {
                    let due = Instant::now() + BEAT;
                    pause(BEAT);
                    let late = due.elapsed();
                    worst.fetch_max(u64::try_from(late.as_micros()).unwrap(), Ordering::Relaxed);
                    standstills.fetch_add(u32::from(late > STANDSTILL), Ordering::Relaxed);
                }
            })
        };
        let threads = (0..cores).map(beat).collect();
        let real_time = told.iter().take(cores).all(|raised| raised);
        Self { over, worst, standstills, real_time, threads }
    }

    /// The longest delay since this was last asked, and how many there were that somebody else may
    /// have felt too.
    pub fn take(&self) -> (Duration, u32) {
        let worst = Duration::from_micros(self.worst.swap(0, Ordering::Relaxed));
        (worst, self.standstills.swap(0, Ordering::Relaxed))
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
