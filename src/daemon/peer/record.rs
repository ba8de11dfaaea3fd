//! What happened between us and a peer, kept for whoever asks why there is no session.

use std::time::SystemTime;

use crate::bgp::message::{Message, Notification, Open};
use crate::bgp::session::State;
use crate::explain::peer::{DialError, Drops};

/// Something, and when.
pub type At<T> = (T, SystemTime);

/// The last of each kind.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// NOTIFICATION that we sent
    pub sent: Option<At<Notification>>,
    /// NOTIFICATION that came
    pub received: Option<At<Notification>>,
    /// Dial that came to nothing, and why
    pub dial: Option<At<(DialError, String)>>,
    /// End of TCP without a NOTIFICATION, and how far the session was
    pub closed: Option<At<State>>,
    /// OPEN that came
    pub open: Option<At<Open>>,
    /// Message that could not be read
    pub malformed: Option<At<String>>,
    /// Until when we keep away from it
    pub barred: Option<SystemTime>,
    /// The kernel's counters when the session was lost, or the task began
    pub drops: Drops,
}

impl Record {
    /// A message came.
    pub fn heard(&mut self, message: &Message) {
        let now = SystemTime::now();
        match message {
            Message::Open(open) => self.open = Some((open.clone(), now)),
            Message::Notification(notification) => self.received = Some((notification.clone(), now)),
            _ => {}
        }
    }
}

/// Whether [`Record::heard`] has a use for a message: of a million UPDATEs nobody need be told.
pub const fn is_memorable(message: &Message) -> bool {
    matches!(message, Message::Open(_) | Message::Notification(_))
}
