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
//!
//! Several builders may use one engine. Whoever replaces an image takes away a name, never an image; whoever builds on
//! one gives it a name of his own meanwhile. What goes all the same is no fault of the request: it is made again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use mecapy_engine::{BuiltImage, ContextFile, Credentials, Engine, LogSink};
use mecapy_proto::{BuildId, ErrorCode};
use mecapy_registry::{Content, Digest, ImageRef, Registry};
use mecapy_service::step;
use tokio_util::sync::CancellationToken;

use crate::base_failure::{explain, for_want_of_a_host};
use crate::base_files::BaseFiles;
use crate::base_matrix::Cell;
use crate::broom::{Broom, Scratch};
use crate::build_log::BuildLog;
use crate::engine_step::Settings;
use crate::options::Options;
use crate::rejection::Rejection;
use crate::single_flight::SingleFlight;
use crate::work::{Budget, Work};
use crate::{Error, metric_definitions};

const REPOSITORY: &str = "mecapy/staging/base";
/// On the engine alone, `{base}-{files}`.
const KEPT: &str = "mecapy-build/base";
/// How long one of other files than a cell has now is kept: another builder on this engine may have those.
const KEPT_OF_OTHER_FILES: Duration = Duration::from_secs(24 * 60 * 60);
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
    flights: SingleFlight<()>,
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

    /// Removes what builders that died have left with the engine.
    pub async fn sweep(&self) -> Result<(), Error> {
        self.broom.sweep(4 * self.options.limit().max(self.options.base.limit())).await
    }

    /// Waits until nothing of past builds is left with the engine but what it is to keep.
    pub async fn finish(&self) {
        self.settings.close();
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
        let slim = step("slim image", self.slim(&cell.python, &mut work)).await?;
        let made = if cell.variant == SLIM {
            slim
        } else {
            let image = self.image(cell, &files, Below::Ours(&slim.image.id), &mut work);
            step("image", image).await?
        };
        let image = &made.image;
        let ended = match step("try out", self.try_out(image, &files, &mut work)).await {
            Ok(()) => step("push", self.push(cell, id, image, &mut work)).await,
            Err(error) => Err(error),
        };
        match ended {
            Ok(built) => Ok(built),
            Err(error) => Err(self.unless_gone(&image.id, error).await),
        }
    }

    /// The slim image of a Python. Cells of one Python at once make it once.
    async fn slim(&self, python: &str, work: &mut Work<'_>) -> Result<Made, Error> {
        let options = &self.options.base;
        let upstream = options.python_image(python);
        let files = BaseFiles::read(&options.folder, SLIM).await?;
        let cell = Cell { python: python.to_owned(), variant: SLIM.to_owned() };
        let none = || {
            let message = format!("there is no image {upstream} to build on");
            Error::Rejected(Rejection::new(ErrorCode::UnsupportedPython, message))
        };
        let _alone = work.unless_cancelled(self.flights.enter(python)).await?;
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
                Err(mecapy_engine::Error::ImageNotFound { .. }) => return Err(none()),
                pulled => pulled.map_err(Error::engine("pulling the Python image"))?,
            }
        }
        let there = self.engine.image(&upstream).await;
        if there.map_err(Error::engine("looking for the Python image"))?.is_none() {
            return Err(if options.pull { Error::Vanished(upstream) } else { none() });
        }
        self.image(&cell, &files, Below::Upstream(&upstream), work).await
    }

    /// Builds the image of a cell on another.
    async fn image(
        &self,
        cell: &Cell,
        files: &BaseFiles,
        below: Below<'_>,
        work: &mut Work<'_>,
    ) -> Result<Made, Error> {
        let (argument, on) = below.argument();
        let fingerprint: String = files.fingerprint.hex().chars().take(8).collect();
        let kept = format!("{KEPT}:{}-{fingerprint}", cell.base());
        let before = self.engine.image(&kept).await;
        let before = before.map_err(Error::engine("looking for the last base image"))?;
        // The last one's only name, once the new one has got the kept one: it goes with it.
        let _before = match before {
            Some(before) => self.hold(&before.id).await?,
            None => None,
        };

        let network = self.settings.network(on).await?;
        let mut request = self.settings.request(files.dockerfile.clone(), &kept);
        request.files = files.files.clone();
        request.network = Some(network.name().to_owned());
        request.build_args.insert(argument.to_owned(), on.to_owned());
        if let Some(index) = &self.options.index_url {
            request.build_args.insert("PIP_INDEX_URL".to_owned(), index.expose().to_owned());
        }
        let label = |name: &str, value: String| (format!("org.mecapy.{name}"), value);
        request.labels = BTreeMap::from([
            label("base", cell.base()),
            label("python", cell.python.clone()),
            label("variant", cell.variant.clone()),
        ]);
        match self.run(request, work).await {
            Ok(image) => {
                network.end();
                let held = self.hold(&image.id).await?;
                let held = held.ok_or_else(|| Error::Vanished(image.id.clone()))?;
                self.forget_others(&cell.base(), &kept).await;
                Ok(Made { image, _held: held })
            }
            // Its relay is gone, and with it the network.
            Err(error @ Error::Egress(_)) => Err(error),
            Err(error) => {
                let error = for_want_of_a_host(error, &network.end());
                Err(self.unless_gone(on, error).await)
            }
        }
    }

    /// Takes away the names of what was made for a base of other files, long ago.
    async fn forget_others(&self, base: &str, kept: &str) {
        match self.engine.image_names(&format!("{KEPT}:{base}-*")).await {
            Ok(names) => {
                for name in of_other_files(names, base, kept) {
                    if self.was_named_long_ago(&name).await {
                        drop(self.broom.scratch_named(name));
                    }
                }
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(base, error, "older images of a base could not be looked for");
            }
        }
    }

    /// Not when it was made: what is built again is in the engine's cache, and named anew.
    async fn was_named_long_ago(&self, name: &str) -> bool {
        match self.engine.named_at(name).await {
            Ok(Some(at)) => at + KEPT_OF_OTHER_FILES < SystemTime::now(),
            Ok(None) => false,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(name, error, "an older image of a base could not be looked at");
                false
            }
        }
    }

    /// Gives an image a name of its own until what is returned is dropped. None: it isn't there.
    async fn hold(&self, id: &str) -> Result<Option<Scratch>, Error> {
        let scratch = self.broom.scratch("held");
        let name = scratch.name.parse().map_err(Error::registry("naming a base image"))?;
        match self.engine.tag(id, &name).await {
            Ok(()) => Ok(Some(scratch)),
            Err(mecapy_engine::Error::ImageNotFound { .. }) => Ok(None),
            Err(error) => Err(Error::engine("naming a base image")(error)),
        }
    }

    /// Of a build that used an image: if that is not there any more, this is why.
    async fn unless_gone(&self, image: &str, error: Error) -> Error {
        match self.engine.image(image).await {
            Ok(None) if !matches!(error, Error::Cancelled) => Error::Vanished(image.to_owned()),
            _ => error,
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

/// What an image is built on.
#[derive(Debug, Clone, Copy)]
enum Below<'a> {
    /// Operators name it.
    Upstream(&'a str),
    /// The id of one that was made here a moment ago.
    Ours(&'a str),
}

impl<'a> Below<'a> {
    /// The build argument by which the Dockerfile takes it, and what it is.
    fn argument(self) -> (&'static str, &'a str) {
        match self {
            Self::Upstream(image) => ("PYTHON_IMAGE", image),
            Self::Ours(image) => ("BASE_IMAGE", image),
        }
    }
}

/// An image that was made, and that nobody takes away meanwhile.
#[derive(Debug)]
struct Made {
    image: BuiltImage,
    _held: Scratch,
}

/// Those of `names` that are of the same base and other files than `kept`.
fn of_other_files(names: Vec<String>, base: &str, kept: &str) -> Vec<String> {
    let prefix = format!("{KEPT}:{base}-");
    let is_other = |name: &String| name != kept && name.starts_with(&prefix);
    names.into_iter().filter(is_other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_of_other_files_is_of_the_same_base() {
        let name = |base: &str, files: &str| format!("{KEPT}:{base}-{files}");
        let kept = name("3.11-slim", "now");
        let names = vec![kept.clone(), name("3.11-slim", "old"), name("3.13-slim", "old")];
        assert_eq!(of_other_files(names, "3.11-slim", &kept), [name("3.11-slim", "old")]);
    }
}
