//! The test S3 as a process: `cargo run -p millpond-tests --example s3 -- --fault all=0.01`.
//!
//! Prints the environment variables by which clients find it. Ends when its standard input ends, and then
//! prints the numbers of requests and of injected faults.

use clap::Parser;
use millpond_tests::s3::{Op, Rule, TestS3, parse_rule};
use std::io::{Read, Write};
use std::net::SocketAddr;

#[derive(Parser)]
struct Args {
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Seed of the random choice of faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A bucket to create at the start; may be repeated
    #[arg(long, default_value = "millpond")]
    bucket: Vec<String>,
    /// A fault to inject, `[get:|put:|delete:]KIND=PROBABILITY`, where KIND is `all` or a fault's name; may
    /// be repeated
    #[arg(long, value_parser = parse_rule)]
    fault: Vec<Rule>,
}

fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let s3 = TestS3::listen(args.listen, args.seed)?;
    for bucket in &args.bucket {
        s3.create_bucket(bucket);
    }
    for rule in args.fault {
        s3.add_fault(rule);
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "S3 is ready on {}", s3.url())?;
    for (name, value) in s3.env() {
        writeln!(out, "export {name}={value}")?;
    }
    out.flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    for op in [Op::Get, Op::Head, Op::Put, Op::Delete, Op::List, Op::Bucket] {
        writeln!(out, "requests {op:?} {}", s3.requests(op))?;
    }
    for (fault, count) in s3.injected() {
        writeln!(out, "faults {} {count}", fault.name())?;
    }
    for bucket in &args.bucket {
        writeln!(out, "objects {bucket} {}", s3.keys(bucket).len())?;
    }
    Ok(())
}
