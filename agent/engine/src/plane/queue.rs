//! Calls of queues, bounded and counted.

use super::{SERVING, STATEMENT, Timed, bounded};
use async_trait::async_trait;
use millpond_core::queue::plane::QueuePlane;
use millpond_core::queue::{
    Admit, DeadFilter, DeadRejected, Grant, Granted, Ledger, Listed, Listing, NoSuchQueue, PutQueueRejected,
    Queue, QueueChange, QueueCounts, Settle, Settled,
};
use millpond_core::{Error, Name, Offset, PartitionId, QueueId};
use std::time::Duration;

/// These touch all rows of a queue.
fn limit(call: &str) -> Duration {
    match call {
        "put_queue" | "delete_queue" | "pause_queue" | "expire" | "clamp" | "queue_counts" | "redrive"
        | "purge_dead" | "seek" => STATEMENT,
        _ => SERVING,
    }
}

macro_rules! timed {
    ($($name:ident($($argument:ident: $type:ty => $owned:ident),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl QueuePlane for Timed {
            $(async fn $name(&self, $($argument: $type),*) -> $answer {
                bounded(stringify!($name), limit(stringify!($name)), self.inner.$name($($argument),*)).await
            })*
        }
    };
}

millpond_core::queue_plane_calls!(timed);
