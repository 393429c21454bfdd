//! The Dockerfiles. A value with a line end or a quote in it would be an instruction of its own, so such
//! values are errors, whatever the caller has checked before.

use minijinja::{Environment, UndefinedBehavior, context};

use crate::function_image::Labels;

/// Runs one of our scripts in the base image, as root.
const STEP: &str = include_str!("../templates/step.Dockerfile");
/// The base image with the environment that was installed elsewhere: neither certificates nor an index
/// nor build arguments have been in it.
const DEPENDENCIES: &str = include_str!("../templates/dependencies.Dockerfile");
/// For the user: the whole image in one Dockerfile.
const FUNCTION: &str = include_str!("../templates/function.Dockerfile");

pub const RESOLVE_SCRIPT: &str = include_str!("../templates/resolve.sh");
pub const INSTALL_SCRIPT: &str = include_str!("../templates/install.sh");

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
        for (name, text) in [("step", STEP), ("dependencies", DEPENDENCIES), ("function", FUNCTION)]
        {
            templates.add_template(name, text).map_err(|source| RenderError { name, source })?;
        }
        Ok(Self { templates })
    }

    /// `script`: the name of a file of the context.
    pub fn step(&self, base: &str, script: &str) -> Result<String, RenderError> {
        self.render("step", context! { base, script })
    }

    /// `installed`: the image with the filled environment. `replaces_venv`: the base's own environment
    /// holds packages, of which nothing may be left.
    pub fn dependencies(
        &self,
        base: &str,
        installed: &str,
        key: &str,
        replaces_venv: bool,
    ) -> Result<String, RenderError> {
        self.render("dependencies", context! { base, installed, key, replaces_venv })
    }

    pub fn function(
        &self,
        base: &str,
        has_requirements: bool,
        function_id: i64,
        version: u32,
        labels: &Labels,
    ) -> Result<String, RenderError> {
        let labels: Vec<_> = labels
            .iter()
            .map(|(name, value)| context! { name => name.clone(), value => value.clone() })
            .collect();
        self.render("function", context! { base, has_requirements, function_id, version, labels })
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
    fn a_dependency_image_is_the_base_and_the_environment_and_no_more() {
        let files = Dockerfiles::new().unwrap();
        assert_eq!(
            files.dependencies(BASE, "mecapy-build:x", "00ff", false).unwrap(),
            format!(
                "FROM {BASE}\nCOPY --from=mecapy-build:x /opt/venv /opt/venv\n\
                 LABEL org.mecapy.dependencies.key=\"00ff\"\nUSER mecapy\n"
            )
        );
        let replaced = files.dependencies(BASE, "mecapy-build:x", "00ff", true).unwrap();
        assert!(
            replaced.contains("USER root\nRUN [\"/bin/rm\", \"-rf\", \"/opt/venv\"]\nCOPY"),
            "{replaced}"
        );
    }

    #[test]
    fn a_step_runs_our_script_in_the_base() {
        let step = Dockerfiles::new().unwrap().step(BASE, "resolve.sh").unwrap();
        assert!(step.starts_with(&format!("FROM {BASE}\nUSER root\n")), "{step}");
        assert!(step.ends_with("RUN [\"/bin/sh\", \"/mecapy-build/resolve.sh\"]\n"), "{step}");
    }

    #[test]
    fn the_users_dockerfile_is_whole() {
        let files = Dockerfiles::new().unwrap();
        let with = files.function(BASE, true, 7, 2, &labels("7")).unwrap();
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
        let without = files.function(BASE, false, 7, 2, &labels("7")).unwrap();
        assert!(!without.contains("requirements"), "{without}");
    }

    #[test]
    fn a_value_that_would_be_an_instruction_of_its_own_is_an_error() {
        let files = Dockerfiles::new().unwrap();
        for bad in ["x\nRUN id", "x\r", "x\"", "$HOME", "x\\", "`id`"] {
            assert!(files.step(bad, "a").is_err(), "{bad:?}");
            assert!(files.function(BASE, true, 1, 1, &labels(bad)).is_err(), "{bad:?}");
        }
    }
}
