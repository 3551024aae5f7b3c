//! Identities. Rows of Postgres have `i64` ids; whatever an agent makes up has a uuid.

use std::fmt;
use uuid::Uuid;

macro_rules! newtype {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

newtype!(/** A topic's row; a later topic of the same name has another. */ TopicId(i64));
newtype!(/** A partition's row, unique over all topics and for ever. */ PartitionId(i64));
newtype!(/** Place of a record in its partition: dense, from 0. */ #[derive(Default)] Offset(i64));
newtype!(/** One upload: a segment, or an inline payload. uuidv7, never reused. */ PartId(Uuid));
newtype!(
    /// One atomic produce request or chunk of a stream, kept across its retries inside the agent.
    RequestId(Uuid)
);
newtype!(/** One run of an agent process. */ AgentId(Uuid));
newtype!(/** A consumer group's row; a later group of the same name has another. */ GroupId(i64));
newtype!(
    /// One membership of a consumer group, from joining to leaving or expiring. uuidv7, never reused.
    MemberId(Uuid)
);
newtype!(/** Counts the changes of a group's members and of their assignment. */ Generation(i64));

newtype!(/** A queue's row; a later queue of the same name has another. */ QueueId(i64));
newtype!(/** One lease of records: 128 bits that cannot be guessed. */ LeaseId(Uuid));

impl Offset {
    pub const ZERO: Self = Self(0);

    #[must_use]
    pub fn plus(self, records: u32) -> Self {
        Self(self.0 + i64::from(records))
    }
}
