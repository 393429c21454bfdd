//! What operators look at says the same everywhere: metrics, docs/metrics.md, dashboards, rules, their tests and pages.

use std::collections::{BTreeMap, BTreeSet};

use mecapy_e2e::operations::{
    Definition, Kind, Query, Rules, Selector, cases, dashboards, definitions, documentation, root,
    rules, services, strays,
};

/// What others count, with the labels that we ask for: Prometheus itself, and Distribution.
const OUTSIDE: [(&str, &[&str]); 4] = [
    ("up", &[]),
    ("ALERTS", &["alertname", "alertstate", "severity"]),
    ("registry_http_requests_total", &["code", "handler", "method"]),
    ("registry_http_in_flight_requests", &["handler"]),
];
/// On every sample: what Prometheus scraped it from.
const OF_TARGETS: [&str; 3] = ["job", "instance", "service"];
/// One replica sees these for all, whichever is asked for.
const SEEN_BY_ONE: [&str; 3] = ["registry_storage_", "registry_cleanup_", "registry_mirror_"];

/// What is known of each name that a query may use: its labels.
struct Known(BTreeMap<String, BTreeSet<String>>);

impl Known {
    fn new(definitions: &[Definition], rules: &Rules) -> Self {
        let mut known = BTreeMap::new();
        for Definition { name, kind, labels, .. } in definitions {
            if *kind == Kind::Histogram {
                let mut of_buckets = labels.clone();
                of_buckets.insert("le".to_owned());
                known.insert(format!("{name}_bucket"), of_buckets);
                known.insert(format!("{name}_sum"), labels.clone());
                known.insert(format!("{name}_count"), labels.clone());
            } else {
                known.insert(name.clone(), labels.clone());
            }
        }
        for (name, labels) in OUTSIDE {
            known.insert(name.to_owned(), labels.iter().map(|&label| label.to_owned()).collect());
        }
        for rule in &rules.recordings {
            known.insert(rule.name.clone(), BTreeSet::new());
        }
        for labels in known.values_mut() {
            labels.extend(OF_TARGETS.map(str::to_owned));
        }
        Self(known)
    }

    /// What is wrong with a query.
    fn problems(&self, query: &str) -> Vec<String> {
        let Query { selectors, labels } = Query::read(query);
        let mut problems = Vec::new();
        let mut of_all = BTreeSet::new();
        for Selector { metric, matchers } in &selectors {
            let Some(known) = self.0.get(metric) else {
                problems.push(format!("nothing counts {metric}"));
                continue;
            };
            of_all.extend(known.iter().map(String::as_str));
            let unknown = matchers.iter().filter(|matcher| !known.contains(&matcher.label));
            problems
                .extend(unknown.map(|matcher| format!("{metric} has no label {}", matcher.label)));
        }
        let unknown = labels.iter().filter(|label| !of_all.contains(label.as_str()));
        problems
            .extend(unknown.map(|label| format!("grouped by {label}, which nothing in it has")));
        if selectors.is_empty() {
            problems.push("it asks for nothing".to_owned());
        }
        problems
    }
}

fn none(what: &str, problems: &[String]) {
    assert!(problems.is_empty(), "{what}:\n{}", problems.join("\n"));
}

/// The metric itself, of a name that a query has.
fn family(name: &str) -> &str {
    ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

#[test]
fn every_metric_is_counted_in_the_file_for_it_and_described() {
    // An error tells what is counted and not described, or described and not counted.
    let definitions = definitions().unwrap();
    none("counted elsewhere than in metric_definitions.rs", &strays().unwrap());
    for Definition { name, kind, unit, help, .. } in definitions {
        assert!(!help.is_empty(), "{name} says nothing");
        let is_total = name.ends_with("_total");
        assert_eq!(
            kind == Kind::Counter,
            is_total,
            "{name}: counters end with _total, and they alone"
        );
        for (ending, expected) in
            [("_seconds", "seconds"), ("_bytes", "bytes"), ("_bytes_total", "bytes")]
        {
            if name.ends_with(ending) {
                assert_eq!(unit, expected, "{name}");
            }
        }
    }
}

#[test]
fn docs_metrics_lists_every_metric_as_its_crate_defines_it() {
    let page = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let tables = documentation(&definitions().unwrap());
    let documented = page.find("\n## ").map_or("", |at| &page[at..]);
    assert!(documented == tables, "docs/metrics.md, from its first ## on, should be:\n{tables}");
}

#[test]
fn every_query_asks_for_what_is_counted_by_labels_that_it_has() {
    let rules = rules().unwrap();
    let known = Known::new(&definitions().unwrap(), &rules);
    let mut problems = Vec::new();
    let mut look = |place: &str, query: &str| {
        problems.extend(known.problems(query).iter().map(|problem| format!("{place}: {problem}")));
    };
    for (rule, query) in rules.queries() {
        look(rule, query);
    }
    for dashboard in dashboards().unwrap() {
        for (panel, query) in dashboard.queries() {
            look(&format!("{} / {}", dashboard.title, panel.title), query);
        }
    }
    none("queries", &problems);
}

#[test]
fn every_metric_is_in_a_dashboard() {
    let shown: BTreeSet<String> = dashboards()
        .unwrap()
        .iter()
        .flat_map(|dashboard| {
            dashboard.queries().map(|(_, query)| Query::read(query)).collect::<Vec<_>>()
        })
        .flat_map(|query| query.selectors)
        .map(|selector| selector.metric)
        .collect();
    let families: BTreeSet<&str> = shown.iter().map(|name| family(name)).collect();
    let missing: Vec<String> = definitions()
        .unwrap()
        .into_iter()
        .map(|definition| definition.name)
        .filter(|name| !families.contains(name.as_str()) && !shown.contains(name))
        .collect();
    none("in no dashboard", &missing);
    let unused = rules().unwrap().recordings.into_iter().map(|rule| rule.name);
    let unused: Vec<String> = unused.filter(|name| !shown.contains(name)).collect();
    none("recorded and in no dashboard", &unused);
}

#[test]
fn every_panel_has_a_unit_and_a_description_and_shows_the_replicas_that_were_chosen() {
    let dashboards = dashboards().unwrap();
    let names: Vec<&str> = dashboards.iter().map(|dashboard| dashboard.uid.as_str()).collect();
    assert_eq!(names, ["mecapy-bus", "mecapy-pipeline", "mecapy-registry", "mecapy-workers"]);
    let mut problems = Vec::new();
    for dashboard in &dashboards {
        let variables: Vec<&str> =
            dashboard.templating.list.iter().map(|variable| variable.name.as_str()).collect();
        assert_eq!(variables, ["service", "instance"], "{}", dashboard.title);
        for panel in dashboard.shown() {
            let place = format!("{} / {}", dashboard.title, panel.title);
            assert!(!panel.field_config.defaults.unit.is_empty(), "{place} has no unit");
            assert!(panel.description.ends_with('.'), "{place} is not described");
            assert_eq!(panel.datasource.uid, "prometheus", "{place}");
            assert!(!panel.targets.is_empty(), "{place} asks for nothing");
        }
        for (panel, query) in dashboard.queries() {
            for selector in Query::read(query).selectors {
                let Selector { metric, .. } = &selector;
                let is_seen_by_one = SEEN_BY_ONE.iter().any(|prefix| metric.starts_with(prefix))
                    || metric.starts_with("mecapy_consumer_waiting")
                    || metric.starts_with("mecapy_consumer_unacknowledged")
                    || metric == "mecapy_dead_letters_kept"
                    || metric.contains(':')
                    || metric == "ALERTS"
                    || metric.starts_with("registry_http_")
                    || selector.asks("job", "registry");
                let follows =
                    selector.asks("service", "$service") && selector.asks("instance", "$instance");
                if !is_seen_by_one && !follows {
                    problems.push(format!("{} / {}: {metric}", dashboard.title, panel.title));
                }
            }
        }
    }
    none("shown whichever service and replica is chosen", &problems);
}

#[test]
fn every_alert_says_what_to_do_and_has_a_page_and_each_page_an_alert() {
    let folder = "docs/operations/alerts";
    let mut pages: BTreeSet<String> = std::fs::read_dir(root().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "README.md")
        .collect();
    for alert in rules().unwrap().alerts {
        let name = &alert.name;
        assert!(
            ["page", "ticket"].contains(&alert.severity.as_str()),
            "{name}: {}",
            alert.severity
        );
        assert!(!alert.summary.is_empty() && alert.description.ends_with(['.', '?']), "{name}");
        assert_eq!(alert.runbook, format!("{folder}/{name}.md"));
        assert!(pages.remove(&format!("{name}.md")), "{} is missing", alert.runbook);
        let page = std::fs::read_to_string(root().join(&alert.runbook)).unwrap();
        assert!(page.starts_with(&format!("# {name}\n")), "{}", alert.runbook);
        for part in ["**What it means.**", "**How to look.**", "**What to do.**"] {
            assert!(page.contains(part), "{}: {part}", alert.runbook);
        }
    }
    assert!(pages.is_empty(), "pages of no alert: {pages:?}");
}

#[test]
fn every_alert_is_tried_out_firing_and_not_firing() {
    let cases = cases().unwrap();
    for alert in rules().unwrap().alerts {
        for fires in [true, false] {
            assert!(
                cases.iter().any(|case| case.alert == alert.name && case.fires == fires),
                "rules_test has no case in which {} {}",
                alert.name,
                if fires { "fires" } else { "does not fire" }
            );
        }
    }
}

#[test]
fn every_service_is_scraped_and_missed_when_it_is_gone() {
    let compose = root().join("deploy/compose/prometheus/prometheus.yml");
    let scraped = std::fs::read_to_string(compose).unwrap();
    let names = scraped.split_once("names: [").unwrap().1.split_once(']').unwrap().0;
    let mut scraped: Vec<&str> = names.split(',').map(str::trim).collect();
    scraped.sort_unstable();
    let services = services().unwrap();
    assert_eq!(scraped, services);
    let alerts = rules().unwrap().alerts;
    let missing = alerts.iter().find(|alert| alert.name == "ServiceMissing").unwrap();
    for service in services {
        let is_missed = Query::read(&missing.expr)
            .selectors
            .iter()
            .any(|selector| selector.asks("service", &service));
        assert!(is_missed, "ServiceMissing does not look for {service}");
    }
}
