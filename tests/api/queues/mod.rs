//! `/v1/queues`: leases, settlements, listings, administration.

mod admin;
mod batches;
mod lease;
mod order;
mod settle;
