//! An S3 server in memory, over HTTP on a loopback port: as strict as S3, with injected faults.
//!
//! Signatures, conditions and checksums are verified as S3 verifies them. Code under test uses its usual
//! client, configured by the variables of [`TestS3::env`]. Requests are counted, and a test can read, damage
//! and remove objects from outside.

mod buckets;
mod digest;
mod fault;
mod server;
mod service;
#[cfg(test)]
mod tests;

pub use buckets::Versioning;
pub use fault::{Fault, Op, Rule, parse_rule};

use buckets::Buckets;
use bytes::Bytes;
use fault::Faults;
use millpond_core::SystemClock;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::sync::oneshot;

pub const ACCESS_KEY: &str = "millpond-test";
pub const SECRET_KEY: &str = "millpond-test-secret";
pub const REGION: &str = "us-east-1";

/// State that the server's thread and its owner share.
struct State {
    clock: SystemClock,
    /// Error of the server's clock, as its `Date` headers show it, in milliseconds.
    skew_ms: AtomicI64,
    buckets: Mutex<Buckets>,
    faults: Mutex<Faults>,
    requests: Mutex<BTreeMap<(Op, String), u64>>,
}

/// A running S3 server with its own thread and runtime; it stops on drop.
pub struct TestS3 {
    address: SocketAddr,
    state: Arc<State>,
    _stop: oneshot::Sender<()>,
}

impl TestS3 {
    /// Starts a server on a free port. Faults are drawn from the seed.
    #[must_use]
    pub fn start(seed: u64) -> Self {
        Self::listen(SocketAddr::from(([127, 0, 0, 1], 0)), seed).expect("a free port")
    }

    /// # Errors
    /// The address cannot be listened on.
    pub fn listen(address: SocketAddr, seed: u64) -> std::io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            clock: SystemClock,
            skew_ms: AtomicI64::new(0),
            buckets: Mutex::default(),
            faults: Mutex::new(Faults::new(seed)),
            requests: Mutex::default(),
        });
        let (stop, stopped) = oneshot::channel();
        let served = Arc::clone(&state);
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    () = server::serve(listener, served) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { address, state, _stop: stop })
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Environment variables by which clients find the server and sign requests.
    #[must_use]
    pub fn env(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ENDPOINT", self.url()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
        ]
    }

    /// Creates a bucket; one that exists stays as it is.
    pub fn create_bucket(&self, bucket: &str) {
        self.state.buckets.lock().create(bucket);
    }

    pub fn set_versioning(&self, bucket: &str, versioning: Versioning) {
        self.state.buckets.lock().bucket_mut(bucket).expect("a bucket").versioning = versioning;
    }

    /// Sets the bucket's default encryption, for instance `AES256`.
    pub fn set_encryption(&self, bucket: &str, algorithm: Option<&str>) {
        self.state.buckets.lock().bucket_mut(bucket).expect("a bucket").encryption =
            algorithm.map(str::to_owned);
    }

    /// Sets the error of the server's clock, as its `Date` headers show it.
    pub fn set_clock_skew_ms(&self, skew_ms: i64) {
        self.state.skew_ms.store(skew_ms, Ordering::SeqCst);
    }

    /// Adds a rule for requests from now on; the first rule that fires decides about a request.
    pub fn add_fault(&self, rule: Rule) {
        self.state.faults.lock().add(rule);
    }

    /// Removes all rules; counts are kept.
    pub fn clear_faults(&self) {
        self.state.faults.lock().clear();
    }

    /// Number of times each fault was injected.
    #[must_use]
    pub fn injected(&self) -> BTreeMap<Fault, u64> {
        self.state.faults.lock().injected.clone()
    }

    /// Number of requests of a kind so far, failed ones included.
    #[must_use]
    pub fn requests(&self, op: Op) -> u64 {
        self.requests_by_key(op).values().sum()
    }

    /// Number of requests of a kind, by object key.
    #[must_use]
    pub fn requests_by_key(&self, op: Op) -> BTreeMap<String, u64> {
        let requests = self.state.requests.lock();
        requests
            .iter()
            .filter(|((of, _), _)| *of == op)
            .map(|((_, key), count)| (key.clone(), *count))
            .collect()
    }

    /// Keys of a bucket's objects, in order.
    #[must_use]
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        self.state
            .buckets
            .lock()
            .bucket(bucket)
            .map(|b| b.objects.keys().cloned().collect())
            .unwrap_or_default()
    }

    #[must_use]
    pub fn get(&self, bucket: &str, key: &str) -> Option<Bytes> {
        self.state.buckets.lock().bucket(bucket)?.objects.get(key).map(|object| object.bytes.clone())
    }

    /// Writes an object without a request.
    pub fn put(&self, bucket: &str, key: &str, bytes: impl Into<Bytes>) {
        let now_ms = millpond_core::Clock::now_ms(&self.state.clock);
        self.state.buckets.lock().store(bucket, key, bytes.into(), now_ms).expect("a bucket");
    }

    /// Deletes an object without a request; true if it existed.
    pub fn delete(&self, bucket: &str, key: &str) -> bool {
        self.state.buckets.lock().remove(bucket, key)
    }

    /// Flips a bit in the middle of an object.
    pub fn corrupt(&self, bucket: &str, key: &str) {
        let mut bytes = self.get(bucket, key).expect("an object").to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        self.put(bucket, key, bytes);
    }
}
