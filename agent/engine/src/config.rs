//! Settings of an agent: values, never clients.

use crate::produce::batcher::BatcherConfig;
use millpond_core::limits;

#[derive(Debug, Clone)]
pub struct Config {
    pub batcher: BatcherConfig,
    /// For records on their way in.
    pub admission_bytes: usize,
    /// For blocks of segments and inline payloads.
    pub cache_bytes: u64,
    /// For uncompressed records on their way out.
    pub read_bytes: usize,
    /// For uncompressed batches from which queues take records.
    pub decoded_bytes: u64,
    pub default_partitions: i32,
    pub auto_create: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            batcher: BatcherConfig::default(),
            admission_bytes: 160 * limits::MIB,
            cache_bytes: 96 << 20,
            read_bytes: 96 * limits::MIB,
            decoded_bytes: 48 << 20,
            default_partitions: limits::PARTITIONS_DEFAULT,
            auto_create: true,
        }
    }
}
