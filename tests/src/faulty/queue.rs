//! Calls of queues, lost and doubled, and sent again.

use super::{Faulty, Resending};
use async_trait::async_trait;
use millpond_core::queue::plane::QueuePlane;
use millpond_core::queue::{
    Admit, DeadFilter, DeadRejected, Grant, Granted, Ledger, Listed, Listing, NoSuchQueue, PutQueueRejected,
    Queue, QueueChange, QueueCounts, Settle, Settled,
};
use millpond_core::{Error, Name, Offset, PartitionId, QueueId};

macro_rules! wrapped {
    ($($name:ident($($argument:ident: $type:ty => $owned:ident),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl QueuePlane for Faulty {
            $(async fn $name(&self, $($argument: $type),*) -> $answer {
                self.fail(|| self.inner.$name($($argument),*)).await
            })*
        }

        #[async_trait]
        impl QueuePlane for Resending {
            $(async fn $name(&self, $($argument: $type),*) -> $answer {
                self.resend(|| self.inner.$name($($argument),*)).await
            })*
        }
    };
}

millpond_core::queue_plane_calls!(wrapped);
