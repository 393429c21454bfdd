//! Servers of the testkit, without what Docker puts between.

use anyhow::{Context as _, Result, ensure};

/// The URL of a container itself: Docker's proxy, which listens on loopback for it, takes more of two cores than
/// what is measured here.
pub async fn direct(url: &str, port: u16) -> Result<String> {
    let published = url.split("127.0.0.1:").nth(1).context("not a published port")?;
    let published = published.split('/').next().unwrap_or_default();
    let command = format!(
        "docker inspect -f '{{{{.NetworkSettings.IPAddress}}}}' $(docker ps -q --filter publish={published})"
    );
    let done = tokio::process::Command::new("sh").args(["-c", &command]).output().await?;
    let address = String::from_utf8_lossy(&done.stdout).trim().to_owned();
    ensure!(!address.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(url.replace(&format!("127.0.0.1:{published}"), &format!("{address}:{port}")))
}
