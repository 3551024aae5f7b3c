//! Ids and offsets, each a type of its own. Postgres numbers its rows with an `i64`; an id that an agent
//! generates is a UUID.

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

newtype!(/** Id of a topic. A topic created later under the same name gets another id. */ TopicId(i64));
newtype!(/** Id of a partition: unique over all topics, never reused. */ PartitionId(i64));
newtype!(/** Position of a record in its partition: from 0, without gaps. */ #[derive(Default)] Offset(i64));
newtype!(/** Id of one upload: a segment or an inline payload. A UUIDv7, never reused. */ PartId(Uuid));
newtype!(
    /// Id of one atomic produce request, or of one chunk of a stream. Retries inside the agent keep it.
    RequestId(Uuid)
);
newtype!(/** Id of one run of an agent process. */ AgentId(Uuid));
newtype!(
    /// Id of a consumer group. A group created later under the same name gets another id.
    GroupId(i64)
);
newtype!(
    /// Id of one membership of a consumer group, from joining to leaving or expiring. A UUIDv7, never reused.
    MemberId(Uuid)
);
newtype!(
    /// Number of a consumer group's generation. Each change of the members or of their assignment adds one.
    Generation(i64)
);

newtype!(/** Id of a queue. A queue created later under the same name gets another id. */ QueueId(i64));
newtype!(/** Id of one lease of records: a random UUID that cannot be guessed. */ LeaseId(Uuid));

impl Offset {
    pub const ZERO: Self = Self(0);

    #[must_use]
    pub fn plus(self, records: u32) -> Self {
        Self(self.0 + i64::from(records))
    }
}
