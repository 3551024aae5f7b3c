//! `query_file!` and `migrate!` do not see new files by themselves.
fn main() {
    println!("cargo:rerun-if-changed=queries");
    println!("cargo:rerun-if-changed=../migrations");
}
