//! Scheduling of the thread: the best that is permitted.

use std::fmt;
use std::io;

/// Above everything that computes, far below the kernel's own threads and watchdogs.
const FIFO: libc::c_int = 10;

/// Where real time is not permitted.
const NICE: libc::c_int = -10;

/// What a thread got.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Priority {
    /// `SCHED_FIFO` at this priority: runs as soon as it can
    RealTime(libc::c_int),
    /// The ordinary scheduler with this nice value: usually runs soon
    Nice(libc::c_int),
    /// As everybody else: CAP_SYS_NICE is missing
    Ordinary,
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RealTime(priority) => write!(f, "real time {priority}"),
            Self::Nice(nice) => write!(f, "nice {nice}"),
            Self::Ordinary => f.write_str("ordinary (no CAP_SYS_NICE)"),
        }
    }
}

/// Raises the priority of the calling thread as far as it may.
pub(super) fn raise() -> Priority {
    if real_time().is_ok() {
        Priority::RealTime(FIFO)
    } else if nice().is_ok() {
        Priority::Nice(NICE)
    } else {
        Priority::Ordinary
    }
}

#[expect(unsafe_code, reason = "no crate of ours wraps sched_setscheduler(2)")]
fn real_time() -> io::Result<()> {
    let param = libc::sched_param { sched_priority: FIFO };
    // SAFETY: 0 is the calling thread; the kernel reads `param`, which is of the type that it
    // wants and lives through the call, and keeps no pointer to it.
    done(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) })
}

#[expect(unsafe_code, reason = "no crate of ours wraps setpriority(2)")]
fn nice() -> io::Result<()> {
    // SAFETY: takes and gives integers only. 0 is the calling thread: on Linux nice values are of
    // threads, whatever POSIX says.
    done(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) })
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
