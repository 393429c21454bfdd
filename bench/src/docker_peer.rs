//! `docker build` and `docker push` of the same files, as people run them.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mecapy_testkit::RegistryServer;
use tokio::process::Command;

/// A folder with a Dockerfile, and the images made of it. The requirements have a layer of their own, so that an edit
/// of the code finds it in the cache.
pub struct Docker {
    folder: tempfile::TempDir,
    config: tempfile::TempDir,
    image: String,
    tags: Vec<String>,
}

impl Docker {
    /// `install`: the command that installs `/tmp/requirements.txt` in the image `base`.
    pub async fn new(registry: &RegistryServer, base: &str, install: &str) -> Result<Self> {
        let docker = Self {
            folder: tempfile::tempdir()?,
            config: tempfile::tempdir()?,
            image: format!("{}/peer/function", registry.host),
            tags: Vec::new(),
        };
        let mut certificates = String::new();
        if let Some(bundle) =
            std::env::var_os("SSL_CERT_FILE").filter(|path| Path::new(path).is_file())
        {
            std::fs::copy(bundle, docker.folder.path().join("ca.crt"))?;
            certificates =
                "COPY ca.crt /tmp/ca.crt\nARG SSL_CERT_FILE=/tmp/ca.crt\nARG PIP_CERT=/tmp/ca.crt\n"
                    .to_owned();
        }
        docker.write(
            "Dockerfile",
            &format!(
                "FROM {base}\nUSER root\n{certificates}COPY requirements.txt /tmp/\nRUN {install}\n\
                 COPY user_function.py /app/\nUSER 1000\nCMD [\"python\", \"user_function.py\"]\n"
            ),
        )?;
        docker
            .run(&["login", "-u", &registry.username, "-p", &registry.password, &registry.host])
            .await?;
        Ok(docker)
    }

    pub async fn build_and_push(&mut self, code: &str, requirements: &str) -> Result<Duration> {
        self.write("user_function.py", code)?;
        self.write("requirements.txt", requirements)?;
        let tag = format!("{}:v{}", self.image, self.tags.len());
        let folder = self.folder.path().to_string_lossy().into_owned();
        let began = Instant::now();
        self.run(&["build", "-q", "-t", &tag, &folder]).await?;
        self.run(&["push", "-q", &tag]).await?;
        let took = began.elapsed();
        self.tags.push(tag);
        Ok(took)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        Ok(std::fs::write(self.folder.path().join(name), text)?)
    }

    async fn run(&self, arguments: &[&str]) -> Result<()> {
        let done = Command::new("docker")
            .args(arguments)
            .env("DOCKER_CONFIG", self.config.path())
            .output()
            .await?;
        let problem = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "docker {}: {problem}", arguments[0]);
        Ok(())
    }

    pub async fn remove(&self) {
        for tag in &self.tags {
            let _ = self.run(&["rmi", tag]).await;
        }
    }
}
