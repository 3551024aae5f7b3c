//! A user starts a second instance in the same folder.

use millpond_tests::harness::process::{Dev, Home};
use millpond_tests::harness::wait::within;
use serde_json::json;

async fn refused(args: &[&str]) -> String {
    let mut command = tokio::process::Command::from(Dev::command(args));
    let output = within(60, "the end of the second instance", command.kill_on_drop(true).output())
        .await
        .expect("its output");
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_second_instance_is_refused_and_told_why() {
    let home = Home::open();
    let dev = Dev::start(&home, &[]);
    let data_dir = home.data_dir().display().to_string();
    let told = refused(&["--listen", "127.0.0.1:0", "--data-dir", &data_dir]).await;
    assert!(
        told.contains("error: ") && told.contains(&data_dir) && told.contains("in use by another Millpond"),
        "{told}"
    );
    let other = Home::open();
    let other = other.data_dir().display().to_string();
    let told = refused(&["--listen", &dev.address.to_string(), "--data-dir", &other]).await;
    assert!(told.contains(&format!("cannot listen on {}", dev.address)), "{told}");
    let told = refused(&["--listen", "0.0.0.0:0", "--data-dir", &other]).await;
    assert!(told.contains("loopback"), "{told}");
    // The first instance still works.
    dev.api().produce("t", json!([{"value": 1}])).await.ok();
}
