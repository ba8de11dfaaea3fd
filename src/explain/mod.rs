//! Why traffic, or a session, is as it is: what was asked and found → facts in words, a verdict, what
//! to do.
//!
//! Who asks gathers what is known into [`address::Found`] or [`peer::Found`] and gets a [`Story`].
//! Nothing is looked up here.

pub mod address;
pub mod kernel;
pub mod peer;
mod words;

pub use words::age;

/// One thing that is known, under the heading of a part of the way or of the session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fact {
    /// The part: few and stable words
    pub topic: &'static str,
    /// What is known of it, in a sentence or two
    pub text: String,
    /// Something is wrong with it
    pub problem: bool,
}

impl Fact {
    /// How it is.
    pub fn plain(topic: &'static str, text: impl Into<String>) -> Self {
        Self { topic, text: text.into(), problem: false }
    }

    /// What is wrong.
    pub fn problem(topic: &'static str, text: impl Into<String>) -> Self {
        Self { topic, text: text.into(), problem: true }
    }
}

/// An explanation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Story {
    /// The cause in one word: few and stable ones
    pub cause: &'static str,
    /// All of it in one sentence
    pub verdict: String,
    /// All is as it should be
    pub ok: bool,
    /// What is known, in the order in which it comes about
    pub facts: Vec<Fact>,
    /// What to do: sentences and commands
    pub advice: Vec<String>,
}
