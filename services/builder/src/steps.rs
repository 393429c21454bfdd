//! Steps of builds of functions: one of our scripts in a base image, with the package index in reach.

use std::time::Instant;

use mecapy_engine::{ContextFile, Credentials, Engine};
use mecapy_registry::{ImageRef, Registry};
use tokio::sync::Semaphore;

use crate::Error;
use crate::bases::BaseImage;
use crate::broom::{Broom, Scratch};
use crate::dockerfile::{CONFINED_SCRIPT, Dockerfiles, ENVIRONMENT_SCRIPT};
use crate::egress::Network;
use crate::engine_step::{Output, Settings, Step, run};
use crate::options::Options;
use crate::step_files::source_packages;
use crate::work::Work;

/// What a step does.
pub struct Script {
    /// For the metrics: "resolve". The script is `resolve.sh`.
    pub name: &'static str,
    pub text: &'static str,
    /// What it reads.
    pub input: ContextFile,
}

#[derive(Debug)]
pub struct Steps {
    pub engine: Engine,
    pub staging: Registry,
    pub options: Options,
    /// Steps that may run at once.
    pub slots: Semaphore,
    broom: Broom,
    credentials: Option<Credentials>,
    settings: Settings,
    dockerfiles: Dockerfiles,
}

impl Steps {
    pub fn new(
        engine: Engine,
        primary: &Registry,
        staging: Registry,
        options: &Options,
    ) -> Result<Self, Error> {
        let credentials = |registry: &Registry| registry.credentials().map(Credentials::from);
        let logins = [primary, &staging]
            .into_iter()
            .filter_map(|registry| Some((registry.host().to_owned(), credentials(registry)?)))
            .collect();
        Ok(Self {
            settings: Settings::new(&engine, options, logins)?,
            broom: Broom::new(&engine),
            engine,
            credentials: credentials(&staging),
            staging,
            dockerfiles: Dockerfiles::new()?,
            slots: Semaphore::new(options.parallel_engine_builds),
            options: options.clone(),
        })
    }

    /// Waits until nothing of past builds is left with the engine.
    pub async fn finish(&self) {
        self.settings.close();
        self.broom.finish().await;
    }

    /// Runs a script in the base image. Of `from_source` the code may run, and then it is confined. The image that it
    /// leaves is there as long as its name.
    pub async fn run(
        &self,
        base: &BaseImage,
        script: Script,
        from_source: &[String],
        work: &mut Work<'_>,
    ) -> Result<(Scratch, Output), Error> {
        let image = base.reference(&self.staging);
        let network = self.network(&image, work).await?;
        let scratch = self.broom.scratch(script.name);
        let file = format!("{}.sh", script.name);
        let max_processes = (!from_source.is_empty()).then_some(self.options.max_processes);
        let step = Step {
            name: script.name,
            dockerfile: self.dockerfiles.step(&image.to_string(), &file, max_processes)?,
            files: vec![
                ContextFile::new(file, script.text),
                ContextFile::new("environment.sh", ENVIRONMENT_SCRIPT),
                ContextFile::new("confined.py", CONFINED_SCRIPT),
                script.input,
                source_packages(from_source),
            ],
            image: &scratch.name,
            network: Some(network),
        };
        let (_, output) = run(&self.engine, &self.settings, step, work).await?;
        Ok((scratch, output))
    }

    /// The network for a step in this image, which the engine has then.
    async fn network(&self, image: &ImageRef, work: &mut Work<'_>) -> Result<Network, Error> {
        let name = image.to_string();
        let known = self.engine.image(&name).await;
        if known.map_err(Error::engine("looking for the base image"))?.is_none() {
            let began = Instant::now();
            let pull = self.engine.pull(image, self.credentials.as_ref(), work.budget.left());
            let pulled = work.unless_cancelled(pull).await?;
            pulled.map_err(Error::engine("pulling the base image"))?;
            work.budget.spend(began.elapsed());
        }
        self.settings.network(&name).await
    }
}
