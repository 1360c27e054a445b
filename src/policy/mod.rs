//! What an operator lends to clients of the daemon: messages they may send and groups they may join beyond their own rights.
//!
//! | module | promise |
//! | --- | --- |
//! | [`wire`] | messages and attributes of a datagram, or why it is none; nothing is skipped |
//! | [`schema`] | which attributes a message may hold; what is not listed is not understood |
//! | [`catalog`] | the messages and groups that can be granted, by name |
//! | [`config`] | rules from TOML; an error names file, line and rule |
//! | [`decide`] | granted or not, by which rule or for which reason |
//! | [`sieve`] | of what arrives by a grant, what its rule names |
//! | [`rate`] | so many messages a second |
//! | [`arrive`] | whether a message of the kernel's reaches a client, and by which rule |
//! | [`words`] | what a policy means, in sentences |
//! | [`audit`] | what is not granted, as lines of the log, and rules made of such lines |
//!
//! A decision is about bytes that nobody else can change: it takes them, and gives them back inside [`decide::Granted`].
//! A grant lends the daemon's rights, so a datagram is granted only when policy has understood all of it: each message,
//! each attribute at every depth. Attributes that name a descriptor, a process, a user or a namespace are never granted: the
//! kernel would look the number up in the daemon's tables.

pub mod arrive;
pub mod audit;
pub mod catalog;
pub mod config;
pub mod decide;
pub mod generic;
pub mod names;
pub mod rate;
pub mod schema;
pub mod sieve;
pub mod subject;
pub mod wire;
pub mod words;

pub use config::Policy;
