//! The test S3 as a process of its own: `cargo run -p millpond-tests --example s3 -- --fault all=0.01`.
//!
//! Prints the variables by which clients find it; ends with its standard input, and then says what was asked
//! of it and what failed.

use clap::Parser;
use millpond_tests::s3::{Op, Rule, TestS3, parse_rule};
use std::io::{Read, Write};
use std::net::SocketAddr;

#[derive(Parser)]
struct Args {
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Of the dice that faults are drawn with
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A bucket to begin with; may be repeated
    #[arg(long, default_value = "millpond")]
    bucket: Vec<String>,
    /// `[get:|put:|delete:]KIND=PROBABILITY`, where a kind is `all` or the name of a fault; may be repeated
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
