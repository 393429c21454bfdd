//! Builds one base image and puts it into staging. No event, no database, no S3.
//!
//! ```text
//! upstream Python ─▶ python-slim ─┬──────────────────────────────▶ smoke test ─▶ push
//!                                 └─▶ python-numpy, python-scipy ─▶ smoke test ─▶ push
//! ```
//!
//! A variant makes the slim image below it by itself, so that no cell of a matrix waits for another. The engine keeps
//! what was made, under names of ours: where nothing changed, the layers and so the digest are those of last time, and
//! no function has to be built again.

use std::collections::BTreeMap;
use std::time::Instant;

use mecapy_engine::{BuiltImage, ContextFile, Credentials, Engine, LogSink};
use mecapy_proto::{BuildId, ErrorCode};
use mecapy_registry::{Content, Digest, ImageRef, Registry};
use tokio_util::sync::CancellationToken;

use crate::base_files::BaseFiles;
use crate::base_matrix::Cell;
use crate::build_log::BuildLog;
use crate::engine_step::{self, Broom, Budget, Settings};
use crate::options::Options;
use crate::rejection::Rejection;
use crate::single_flight::SingleFlight;
use crate::{Error, metric_definitions};

const REPOSITORY: &str = "mecapy/staging/base";
/// On the engine alone.
const KEPT: &str = "mecapy-build/base";
const SLIM: &str = "slim";

/// A base image in staging.
#[derive(Debug, Clone)]
pub struct BuiltBase {
    /// With digest.
    pub image: ImageRef,
    pub digest: Digest,
    /// Compressed size of all its layers.
    pub size_bytes: u64,
}

#[derive(Debug)]
pub struct BaseBuilder {
    engine: Engine,
    broom: Broom,
    staging: Registry,
    logins: Vec<(String, Credentials)>,
    settings: Settings,
    options: Options,
    flights: SingleFlight,
}

impl BaseBuilder {
    pub fn new(
        options: Options,
        engine: Engine,
        primary: &Registry,
        staging: Registry,
    ) -> Result<Self, Error> {
        let logins: Vec<_> = [primary, &staging]
            .into_iter()
            .filter_map(|registry| {
                Some((registry.host().to_owned(), Credentials::from(registry.credentials()?)))
            })
            .collect();
        Ok(Self {
            broom: Broom::new(&engine),
            staging,
            settings: Settings::new(&engine, &options, logins.clone())?,
            engine,
            logins,
            options,
            flights: SingleFlight::default(),
        })
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Waits until nothing of past builds is left with the engine but what it is to keep.
    pub async fn finish(&self) {
        self.settings.close().await;
        self.broom.finish().await;
    }

    /// `id` names it in staging: no other build has that name.
    pub async fn build(
        &self,
        cell: &Cell,
        id: BuildId,
        log: &BuildLog,
        cancel: &CancellationToken,
    ) -> Result<BuiltBase, Error> {
        let began = Instant::now();
        log.write(&format!("building the base image {}", cell.base()));
        let built = self.build_to_its_end(cell, id, log, cancel).await;
        match &built {
            Ok(built) => {
                log.write(&format!("the image is {} ({} bytes)", built.digest, built.size_bytes));
            }
            Err(error) => log.write(&format!("failed: {}", error.rejection())),
        }
        metric_definitions::base_ended(match &built {
            Ok(_) => "built",
            Err(error) if error.is_transient() => "transient",
            Err(error) => error.rejection().code.as_str(),
        });
        metric_definitions::step("base", began.elapsed());
        built
    }

    async fn build_to_its_end(
        &self,
        cell: &Cell,
        id: BuildId,
        log: &BuildLog,
        cancel: &CancellationToken,
    ) -> Result<BuiltBase, Error> {
        let mut work = Work { budget: Budget::of(self.options.base.limit()), log, cancel };
        let files = BaseFiles::read(&self.options.base.folder, &cell.variant).await?;
        let slim = self.slim(&cell.python, &mut work).await?;
        let image = if cell.variant == SLIM {
            slim
        } else {
            self.image(cell, &files, ("BASE_IMAGE", &slim.id), &mut work).await?
        };
        self.try_out(&image, &files, &mut work).await?;
        self.push(cell, id, &image, &mut work).await
    }

    /// The slim image of a Python. Cells of one Python at once make it once.
    async fn slim(&self, python: &str, work: &mut Work<'_>) -> Result<BuiltImage, Error> {
        let options = &self.options.base;
        let upstream = options.python_image(python);
        let files = BaseFiles::read(&options.folder, SLIM).await?;
        let cell = Cell { python: python.to_owned(), variant: SLIM.to_owned() };
        let _alone = self.flights.enter(python).await;
        if options.pull {
            work.log.write(&format!("pulling {upstream}"));
            let reference: ImageRef =
                upstream.parse().map_err(Error::registry("reading builder.base.python_image"))?;
            let pull =
                self.engine.pull(&reference, self.login(&reference.registry), work.budget.left());
            let began = Instant::now();
            let pulled = work.unless_cancelled(pull).await?;
            work.budget.spend(began.elapsed());
            match pulled {
                Err(mecapy_engine::Error::ImageNotFound { image }) => {
                    return Err(Rejection::new(
                        ErrorCode::UnsupportedPython,
                        format!("there is no image {image} to build on"),
                    )
                    .into());
                }
                pulled => pulled.map_err(Error::engine("pulling the Python image"))?,
            }
        }
        self.image(&cell, &files, ("PYTHON_IMAGE", &upstream), work).await
    }

    /// Builds the image of a cell on the image that `below` names, as a build argument.
    async fn image(
        &self,
        cell: &Cell,
        files: &BaseFiles,
        below: (&str, &str),
        work: &mut Work<'_>,
    ) -> Result<BuiltImage, Error> {
        let fingerprint: String = files.fingerprint.hex().chars().take(8).collect();
        let kept = format!("{KEPT}:{}-{fingerprint}", cell.base());
        let before = self.engine.image(&kept).await;
        let before = before.map_err(Error::engine("looking for the last base image"))?;

        let mut request = self.settings.request(files.dockerfile.clone(), &kept);
        request.files = files.files.clone();
        request.network = Some(self.network(below.1).await?);
        request.build_args.insert(below.0.to_owned(), below.1.to_owned());
        if let Some(index) = &self.options.index_url {
            request.build_args.insert("PIP_INDEX_URL".to_owned(), index.expose().to_owned());
        }
        let label = |name: &str, value: String| (format!("org.mecapy.{name}"), value);
        request.labels = BTreeMap::from([
            label("base", cell.base()),
            label("python", cell.python.clone()),
            label("variant", cell.variant.clone()),
        ]);
        let built = self.run(request, work).await?;
        if let Some(before) = before.filter(|before| before.id != built.id) {
            // Its name has gone to the new one. Another build may still use it; then the next one sees it no more.
            if let Err(error) = self.engine.remove_image(&before.id).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(image = before.id, error, "the last base image stays on the engine");
            }
        }
        Ok(built)
    }

    /// `below`: the image that is built on.
    async fn network(&self, below: &str) -> Result<String, Error> {
        match self.settings.network(below).await {
            Err(Error::Engine { source, .. })
                if matches!(*source, mecapy_engine::Error::ImageNotFound { .. }) =>
            {
                Err(Rejection::new(
                    ErrorCode::UnsupportedPython,
                    format!("there is no image {below} to build on"),
                )
                .into())
            }
            network => network,
        }
    }

    /// Runs the variant's smoke test in the image, as its user and without a network.
    async fn try_out(
        &self,
        image: &BuiltImage,
        files: &BaseFiles,
        work: &mut Work<'_>,
    ) -> Result<(), Error> {
        work.log.write("trying it out");
        let scratch = self.broom.scratch("smoke");
        let dockerfile = format!(
            "FROM {}\nCOPY smoke.py /smoke/smoke.py\nRUN [\"python\", \"/smoke/smoke.py\"]\n",
            image.id
        );
        let mut request = self.settings.request(dockerfile, &scratch.name);
        request.files = vec![ContextFile::new("smoke.py", files.smoke_test.clone())];
        request.no_cache = true;
        self.run(request, work).await.map(drop)
    }

    async fn run(
        &self,
        mut request: mecapy_engine::BuildRequest,
        work: &mut Work<'_>,
    ) -> Result<BuiltImage, Error> {
        request.limit = work.budget.left();
        let sink = {
            let log = work.log.clone();
            LogSink::new(move |line| log.write(line))
        };
        let began = Instant::now();
        let built = self.engine.build(request, &sink, work.cancel).await;
        work.budget.spend(began.elapsed());
        let image = built.map_err(|error| explain(error, &self.options))?;
        if image.size > self.options.max_image_bytes {
            return Err(Rejection::new(
                ErrorCode::ImageTooLarge,
                format!(
                    "the image has {} MiB; builder.max_image_bytes allows {} MiB",
                    image.size >> 20,
                    self.options.max_image_bytes >> 20
                ),
            )
            .into());
        }
        Ok(image)
    }

    async fn push(
        &self,
        cell: &Cell,
        id: BuildId,
        image: &BuiltImage,
        work: &mut Work<'_>,
    ) -> Result<BuiltBase, Error> {
        let tag = format!("{}-{id}", cell.base());
        let reference = ImageRef::new(self.staging.host(), REPOSITORY).with_tag(tag);
        work.log.write(&format!("pushing {reference}"));
        let _name = self.broom.scratch_named(reference.to_string());
        let doing = "pushing the base image to staging";
        self.engine.tag(&image.id, &reference).await.map_err(Error::engine(doing))?;
        let login = self.login(self.staging.host());
        let push = self.engine.push(&reference, login, self.options.base.limit());
        let digest = work.unless_cancelled(push).await?.map_err(Error::engine(doing))?;

        let reading = "reading the base image in staging";
        let manifest = self.staging.manifest(REPOSITORY, &digest.to_string()).await;
        let content =
            manifest.and_then(|manifest| manifest.parse()).map_err(Error::registry(reading))?;
        let Content::Image { layers, .. } = content else {
            return Err(Rejection::new(
                ErrorCode::BuildFailed,
                "the engine pushed an index, not an image",
            )
            .into());
        };
        Ok(BuiltBase {
            image: reference.with_digest(digest),
            digest,
            size_bytes: layers.iter().map(|layer| layer.size).sum(),
        })
    }

    fn login(&self, host: &str) -> Option<&Credentials> {
        self.logins.iter().find(|(known, _)| known == host).map(|(_, login)| login)
    }
}

/// One build on its way.
struct Work<'a> {
    budget: Budget,
    log: &'a BuildLog,
    cancel: &'a CancellationToken,
}

impl Work<'_> {
    async fn unless_cancelled<T>(&self, work: impl Future<Output = T>) -> Result<T, Error> {
        tokio::select! {
            done = work => Ok(done),
            () = self.cancel.cancelled() => Err(Error::Cancelled),
        }
    }
}

/// To the operator, whose Dockerfile it is.
fn explain(error: mecapy_engine::Error, options: &Options) -> Error {
    use mecapy_engine::Error as Engine;
    let rejected = |code, message: String| Error::Rejected(Rejection::new(code, message));
    if let Some(gone) = engine_step::relay_is_gone(&error) {
        return gone;
    }
    match error {
        Engine::Cancelled => Error::Cancelled,
        Engine::TimedOut { .. } => rejected(
            ErrorCode::BuildTimeout,
            format!("it was not built within {} s", options.base.limit_seconds),
        ),
        Engine::OutOfMemory { .. } => rejected(
            ErrorCode::BuildOutOfMemory,
            format!("a step needs more than {} MiB of memory", options.memory_bytes >> 20),
        ),
        Engine::Failed { exit_code, message, .. } => rejected(
            ErrorCode::BuildFailed,
            match exit_code {
                Some(code) => format!("a step ended with status {code}; the log says more"),
                None => format!("the engine does not build it: {message}"),
            },
        ),
        source => Error::engine("building the base image")(source),
    }
}
