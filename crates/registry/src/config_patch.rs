//! What an image's config says after a layer is put on top.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::Digest;

/// Changes to the base's config. What is not set stays as in the base.
#[derive(Clone, Debug, Default)]
pub struct ConfigPatch {
    /// Added, or put in place of the base's.
    pub labels: BTreeMap<String, String>,
    pub cmd: Option<Vec<String>>,
    pub user: Option<String>,
    pub workdir: Option<String>,
    /// Added, or put in place of the base's.
    pub env: BTreeMap<String, String>,
}

const CREATED_BY: &str = "mecapy: append layer";

impl ConfigPatch {
    /// The base's config with the patch and one more layer. Fields that are not understood stay.
    /// `Err` holds what is wrong with the base's config.
    pub(crate) fn apply(
        &self,
        base: &[u8],
        layers: usize,
        diff_id: &Digest,
    ) -> Result<Vec<u8>, String> {
        let mut config: Map<String, Value> =
            serde_json::from_slice(base).map_err(|e| format!("its config is not JSON: {e}"))?;
        // Docker's classic builder leaves the container it built in. It is not this image's.
        config.remove("container");
        config.remove("container_config");

        let diff_ids = config
            .get_mut("rootfs")
            .and_then(|rootfs| rootfs.get_mut("diff_ids"))
            .and_then(Value::as_array_mut)
            .ok_or("its config has no rootfs.diff_ids")?;
        if diff_ids.len() != layers {
            return Err(format!("it has {layers} layers but its config {}", diff_ids.len()));
        }
        diff_ids.push(json!(diff_id));

        // No time of our own: the same input must give the same image.
        let mut step = Map::from_iter([("created_by".to_owned(), json!(CREATED_BY))]);
        if let Some(created) = config.get("created") {
            step.insert("created".to_owned(), created.clone());
        }
        let history = config.entry("history").or_insert_with(|| json!([]));
        history.as_array_mut().ok_or("its history is not a list")?.push(Value::Object(step));

        let runtime = config.entry("config").or_insert_with(|| json!({}));
        if runtime.is_null() {
            *runtime = json!({});
        }
        self.patch_runtime(runtime.as_object_mut().ok_or("its runtime config is not an object")?);
        serde_json::to_vec(&sorted(Value::Object(config))).map_err(|e| e.to_string())
    }

    fn patch_runtime(&self, runtime: &mut Map<String, Value>) {
        if !self.labels.is_empty() {
            let mut labels = match runtime.remove("Labels") {
                Some(Value::Object(labels)) => labels,
                _ => Map::new(),
            };
            labels.extend(self.labels.iter().map(|(name, value)| (name.clone(), json!(value))));
            runtime.insert("Labels".to_owned(), Value::Object(labels));
        }
        if !self.env.is_empty() {
            let mut env = match runtime.remove("Env") {
                Some(Value::Array(env)) => env,
                _ => Vec::new(),
            };
            env.retain(|entry| {
                let name = entry.as_str().and_then(|entry| entry.split('=').next());
                name.is_none_or(|name| !self.env.contains_key(name))
            });
            env.extend(self.env.iter().map(|(name, value)| json!(format!("{name}={value}"))));
            runtime.insert("Env".to_owned(), Value::Array(env));
        }
        let set = [
            ("Cmd", self.cmd.as_ref().map(|cmd| json!(cmd))),
            ("User", self.user.as_ref().map(|user| json!(user))),
            ("WorkingDir", self.workdir.as_ref().map(|workdir| json!(workdir))),
        ];
        for (name, value) in set {
            if let Some(value) = value {
                runtime.insert(name.to_owned(), value);
            }
        }
    }
}

/// With its keys in order at every depth, so that the bytes do not depend on how serde_json was
/// built: its `preserve_order` comes and goes with what else is in the program.
pub(crate) fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let ordered: BTreeMap<String, Value> = map.into_iter().collect();
            Value::Object(ordered.into_iter().map(|(key, value)| (key, sorted(value))).collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(sorted).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Vec<u8> {
        json!({
            "os": "linux", "architecture": "amd64", "created": "2025-10-01T00:00:00Z",
            "config": {
                "Env": ["PATH=/bin", "A=1"], "Labels": {"keep": "1", "change": "old"},
                "Cmd": ["python"], "User": "root", "Unknown": {"x": 1},
            },
            "container": "abc", "container_config": {"Hostname": "abc"},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:00"]},
            "history": [{"created_by": "base"}],
            "variant": "v1",
        })
        .to_string()
        .into_bytes()
    }

    fn patch() -> ConfigPatch {
        ConfigPatch {
            labels: [("change".into(), "new".into()), ("org.x".into(), "y".into())].into(),
            cmd: Some(vec!["python".into(), "user_function.py".into()]),
            user: Some("mecapy".into()),
            workdir: Some("/app".into()),
            env: [("A".into(), "2".into()), ("B".into(), "3".into())].into(),
        }
    }

    #[test]
    fn what_is_set_replaces_and_the_rest_stays() {
        let diff_id = Digest::of(b"layer");
        let config = patch().apply(&base(), 1, &diff_id).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        let runtime = &config["config"];
        assert_eq!(runtime["Env"], json!(["PATH=/bin", "A=2", "B=3"]));
        assert_eq!(runtime["Labels"], json!({"keep": "1", "change": "new", "org.x": "y"}));
        assert_eq!(runtime["Cmd"], json!(["python", "user_function.py"]));
        assert_eq!((&runtime["User"], &runtime["WorkingDir"]), (&json!("mecapy"), &json!("/app")));
        assert_eq!(runtime["Unknown"], json!({"x": 1}));
        assert_eq!(config["rootfs"]["diff_ids"], json!(["sha256:00", diff_id]));
        assert_eq!(config["history"][1]["created"], config["created"]);
        assert_eq!(config["variant"], "v1");
        assert!(config.get("container").is_none() && config.get("container_config").is_none());
    }

    #[test]
    fn an_empty_patch_changes_only_the_layers() {
        let config = ConfigPatch::default().apply(&base(), 1, &Digest::of(b"layer")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        let before: Value = serde_json::from_slice(&base()).unwrap();
        assert_eq!(config["config"], before["config"]);
    }

    #[test]
    fn the_same_patch_gives_the_same_bytes_in_order() {
        let diff_id = Digest::of(b"layer");
        let config = patch().apply(&base(), 1, &diff_id).unwrap();
        assert_eq!(config, patch().apply(&base(), 1, &diff_id).unwrap());
        assert!(config.starts_with(br#"{"architecture":"#));
    }

    #[test]
    fn a_base_that_does_not_add_up_is_refused() {
        let diff_id = Digest::of(b"layer");
        assert!(patch().apply(&base(), 2, &diff_id).is_err());
        assert!(patch().apply(b"{}", 0, &diff_id).is_err());
        assert!(patch().apply(b"[]", 0, &diff_id).is_err());
    }
}
