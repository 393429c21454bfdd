//! The documents that the gateway serves of itself.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::door::{Door, answer};

fn openapi() -> Value {
    serde_json::from_str(include_str!("../../openapi.json")).unwrap()
}

#[test]
fn the_openapi_document_has_every_route_and_no_other() {
    let served: BTreeSet<(String, String)> = mecapy_gateway::routes()
        .iter()
        .map(|route| (route.path.to_owned(), route.method.as_str().to_lowercase()))
        .collect();
    let document = openapi();
    let described: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
            methods.map(|method| (path.clone(), method.clone())).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(served, described);
}

#[test]
fn every_parameter_of_a_path_is_described_and_every_reference_leads_somewhere() {
    let document = openapi();
    check_references(&document, &document);
    for (path, item) in document["paths"].as_object().unwrap() {
        let in_path: BTreeSet<&str> =
            path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
        let described: BTreeSet<&str> = [&item["parameters"], &item["get"]["parameters"]]
            .into_iter()
            .filter_map(Value::as_array)
            .flatten()
            .map(|parameter| resolve(&document, parameter))
            .filter(|parameter| parameter["in"] == "path")
            .filter_map(|parameter| parameter["name"].as_str())
            .collect();
        assert_eq!(in_path, described, "{path}");
    }
}

fn resolve<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap(),
        None => value,
    }
}

fn check_references(document: &Value, value: &Value) {
    if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
    }
    match value {
        Value::Object(map) => map.values().for_each(|value| check_references(document, value)),
        Value::Array(values) => values.iter().for_each(|value| check_references(document, value)),
        _ => {}
    }
}

#[tokio::test]
async fn the_first_page_leads_to_the_others() {
    let door = Door::open().await;
    let index = answer(door.http.get(&door.url)).await;
    for link in ["docs", "openapi"] {
        let path = index.text(&format!("/links/{link}")).to_owned();
        assert_eq!(
            answer(door.http.get(format!("{}{path}", door.url))).await.status,
            200,
            "{path}"
        );
    }
}

#[test]
fn what_a_function_and_a_task_look_like_is_as_described() {
    // Both are checked field by field elsewhere; here, that the document has the same fields.
    let document = openapi();
    let fields = |schema: &str| -> BTreeSet<String> {
        let properties =
            document["components"]["schemas"][schema]["properties"].as_object().unwrap();
        properties.keys().cloned().collect()
    };
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(
        fields("Function"),
        set(&[
            "function_id",
            "name",
            "owner",
            "build_id",
            "version",
            "status",
            "docker_image",
            "image_size",
            "build_time",
            "vulnerabilities",
            "error",
            "created_at",
        ])
    );
    assert_eq!(
        fields("Task"),
        set(&[
            "task_id",
            "function_id",
            "status",
            "attempt",
            "cache",
            "timings",
            "result",
            "error",
            "exit_code",
            "created_at",
            "started_at",
            "ended_at",
        ])
    );
}
