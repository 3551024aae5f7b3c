//! Settings of an agent: plain values, never clients or other components.

use crate::produce::batcher::BatcherConfig;
use millpond_core::limits;

/// Settings of one agent.
#[derive(Debug, Clone)]
pub struct Config {
    pub batcher: BatcherConfig,
    /// Memory budget for incoming records, from the request body to the end of their commit.
    pub admission_bytes: usize,
    /// Size of the cache of segment blocks and inline payloads.
    pub cache_bytes: u64,
    /// Memory budget for reads in flight (batches as stored, uncompressed, and encoded for the answer) and
    /// for answers until the client has taken them.
    pub read_bytes: usize,
    /// Size of the cache of uncompressed batches from which queues read single records.
    pub decoded_bytes: u64,
    /// Number of partitions of a topic that is created without a number.
    pub default_partitions: i32,
    /// Whether producing to a topic that does not exist creates it.
    pub auto_create: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            batcher: BatcherConfig::default(),
            admission_bytes: 160 * limits::MIB,
            cache_bytes: 96 << 20,
            read_bytes: 128 * limits::MIB,
            decoded_bytes: 48 << 20,
            default_partitions: limits::PARTITIONS_DEFAULT,
            auto_create: true,
        }
    }
}
