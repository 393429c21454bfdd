//! The Dockerfiles. A value with a line end or a quote in it would be an instruction of its own, so such
//! values are errors, whatever the caller has checked before.

use minijinja::{Environment, UndefinedBehavior, context};

use crate::function_image::Labels;

/// Runs one of our scripts in the base image, as root; or confined, where code of packages may run.
const STEP: &str = include_str!("../templates/step.Dockerfile");
/// For the user: the whole image in one Dockerfile.
const FUNCTION: &str = include_str!("../templates/function.Dockerfile");

pub const RESOLVE_SCRIPT: &str = include_str!("../templates/resolve.sh");
/// What both of these read first.
pub const ENVIRONMENT_SCRIPT: &str = include_str!("../templates/environment.sh");
pub const INSTALL_SCRIPT: &str = include_str!("../templates/install.sh");
pub const CONFINED_SCRIPT: &str = include_str!("../templates/confined.py");

/// A Dockerfile could not be rendered: our fault.
#[derive(Debug, thiserror::Error)]
#[error("the Dockerfile `{name}` can't be rendered")]
pub struct RenderError {
    name: &'static str,
    #[source]
    source: minijinja::Error,
}

/// Renders the templates.
#[derive(Debug)]
pub struct Dockerfiles {
    templates: Environment<'static>,
}

impl Dockerfiles {
    pub fn new() -> Result<Self, RenderError> {
        let mut templates = Environment::new();
        templates.set_undefined_behavior(UndefinedBehavior::Strict);
        templates.set_formatter(|out, state, value| {
            let text = value.to_string();
            if text.chars().any(|c| c.is_control() || matches!(c, '"' | '\\' | '$' | '\'' | '`')) {
                let problem = format!("{text:?} can't stand in a Dockerfile");
                return Err(minijinja::Error::new(minijinja::ErrorKind::BadEscape, problem));
            }
            minijinja::escape_formatter(out, state, value)
        });
        templates.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        for (name, text) in [("step", STEP), ("function", FUNCTION)] {
            templates.add_template(name, text).map_err(|source| RenderError { name, source })?;
        }
        Ok(Self { templates })
    }

    /// `script`: the name of a file of the context. `max_processes`: it is confined, by `confined.py` of the context.
    pub fn step(
        &self,
        base: &str,
        script: &str,
        max_processes: Option<u32>,
    ) -> Result<String, RenderError> {
        self.render("step", context! { base, script, max_processes })
    }

    /// `from_source`: the packages that are built.
    pub fn function(
        &self,
        base: &str,
        has_requirements: bool,
        from_source: &[String],
        function_id: i64,
        version: u32,
        labels: &Labels,
    ) -> Result<String, RenderError> {
        let labels: Vec<_> = labels
            .iter()
            .map(|(name, value)| context! { name => name.clone(), value => value.clone() })
            .collect();
        let from_source = from_source.to_vec();
        self.render(
            "function",
            context! { base, has_requirements, from_source, function_id, version, labels },
        )
    }

    fn render(&self, name: &'static str, values: minijinja::Value) -> Result<String, RenderError> {
        self.templates
            .get_template(name)
            .and_then(|template| template.render(values))
            // The template's own last line end is not part of what is rendered.
            .map(|text| text + "\n")
            .map_err(|source| RenderError { name, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "127.0.0.1:5001/mecapy/base/python@sha256:00";

    fn labels(value: &str) -> Labels {
        Labels::from([("org.mecapy.function.id".to_owned(), value.to_owned())])
    }

    #[test]
    fn a_step_runs_our_script_in_the_base() {
        let files = Dockerfiles::new().unwrap();
        let step = files.step(BASE, "resolve.sh", None).unwrap();
        assert!(step.starts_with(&format!("FROM {BASE}\nUSER root\n")), "{step}");
        assert!(step.ends_with("RUN [\"/bin/sh\", \"/mecapy-build/resolve.sh\"]\n"), "{step}");
        let confined = files.step(BASE, "resolve.sh", Some(512)).unwrap();
        assert!(
            confined.ends_with(
                "\"/mecapy-build/confined.py\", \"512\", \"/mecapy-build/resolve.sh\"]\n"
            ),
            "{confined}"
        );
    }

    #[test]
    fn the_users_dockerfile_is_whole() {
        let files = Dockerfiles::new().unwrap();
        let with = files.function(BASE, true, &[], 7, 2, &labels("7")).unwrap();
        for line in [
            format!("FROM {BASE}"),
            "COPY requirements.lock /tmp/requirements.lock".into(),
            "COPY user_function.py /app/user_function.py".into(),
            "LABEL org.mecapy.function.id=\"7\"".into(),
            "USER mecapy".into(),
            "CMD [\"python\", \"user_function.py\"]".into(),
        ] {
            assert!(with.lines().any(|l| l == line), "{line} in\n{with}");
        }
        let without = files.function(BASE, false, &[], 7, 2, &labels("7")).unwrap();
        assert!(!without.contains("requirements"), "{without}");
        assert!(with.contains("--only-binary :all: --require-hashes"), "{with}");
        let from_source =
            files.function(BASE, true, &["a".to_owned()], 7, 2, &labels("7")).unwrap();
        assert!(
            from_source.contains("--only-binary :all: --no-binary a --require"),
            "{from_source}"
        );
    }

    #[test]
    fn a_value_that_would_be_an_instruction_of_its_own_is_an_error() {
        let files = Dockerfiles::new().unwrap();
        for bad in ["x\nRUN id", "x\r", "x\"", "$HOME", "x\\", "`id`"] {
            assert!(files.step(bad, "a", None).is_err(), "{bad:?}");
            assert!(files.function(BASE, true, &[], 1, 1, &labels(bad)).is_err(), "{bad:?}");
        }
    }
}
