//! Packages that operators allow to be built from their sources: their code runs, and gets nothing by it.

use mecapy_builder::{Error, Options};
use mecapy_proto::ErrorCode;

use crate::fixture::{build, builder, primary, request, run};
use crate::hostile_packages::{File, archive, index, of};

/// A source distribution that needs nothing to be built but its own backend, which does `work` first.
fn source(name: &str, work: &str) -> Vec<u8> {
    let backend = format!(
        r#"
import os, zipfile

def status(key):
    return next(line.split()[1] for line in open("/proc/self/status") if line.startswith(key))

def build_wheel(folder, settings=None, metadata=None):
    {}
    name, info = "{name}-1.0-py3-none-any.whl", "{name}-1.0.dist-info"
    files = {{
        "{name}.py": f"user = {{os.getuid()}}\ngroups = {{os.getgroups()}}\nno_new_privileges = {{status('NoNewPrivs:')}}\ncapabilities = '{{status('CapEff:')}}'\n",
        f"{{info}}/METADATA": "Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{{info}}/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }}
    files[f"{{info}}/RECORD"] = "".join(f"{{path}},,\n" for path in [*files, f"{{info}}/RECORD"])
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    return name
"#,
        work.replace('\n', "\n    ")
    );
    let project = format!(
        "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n\
         [project]\nname = \"{name}\"\nversion = \"1.0\"\n"
    );
    let about = format!("Metadata-Version: 2.2\nName: {name}\nVersion: 1.0\n");
    archive(&[
        (&format!("{name}-1.0/pyproject.toml"), &project),
        (&format!("{name}-1.0/backend.py"), &backend),
        (&format!("{name}-1.0/PKG-INFO"), &about),
    ])
}

#[tokio::test]
async fn a_package_that_is_allowed_is_built_by_a_user_without_rights() {
    let (url, _) = index(vec![File::new("fromsource-1.0.zip", source("fromsource", "pass"))]).await;
    let options = Options { source_packages: vec!["FromSource".to_owned()], ..of(url.clone()) };
    let (registry, allowed) = (primary().await, builder(options).await);
    let code = "import fromsource as f; print(f.user, f.groups, f.no_new_privileges, int(f.capabilities, 16))\n";
    let (built, text) = build(&allowed, &request(code, "fromsource\n")).await;
    let built = built.unwrap_or_else(|error| panic!("{error:?}\n{text}"));
    let printed = run(&registry, &built.image, &[]).await;
    let (user, rest) = printed.split_once(' ').unwrap();
    assert!(user.parse::<u32>().unwrap() >= 20_000, "{printed}");
    assert_eq!(rest, "[] 1 0");
    assert!(built.dockerfile.contains("--no-binary fromsource"), "{}", built.dockerfile);
    // Nothing of that user is left in the image.
    let find = ["find", "/opt/venv", "-uid", "+19999"];
    assert_eq!(run(&registry, &built.image, &find).await, "");

    // To another builder the same lock without the setting is another image, and none that it can make.
    let (built, text) = build(&builder(of(url)).await, &request(code, "fromsource\n")).await;
    let rejection = built.unwrap_err().rejection();
    assert_eq!(rejection.code, ErrorCode::NoMatchingWheel, "{text}");
}

#[tokio::test]
async fn a_package_that_makes_processes_without_end_meets_the_limit_and_is_named() {
    // Its children live on, and hold nothing that anyone waits for.
    let bomb = "count = 0\nwhile True:\n    try:\n        child = os.fork()\n    except OSError:\n        print('made', count, flush=True)\n        raise\n    if child == 0:\n        os.closerange(0, 100)\n        import time\n        time.sleep(600)\n    count += 1";
    let (url, _) = index(vec![File::new("bomb-1.0.zip", source("bomb", bomb))]).await;
    let source_packages = vec!["bomb".to_owned()];
    let options = Options { source_packages, max_processes: 100, ..of(url) };
    let (built, text) = build(&builder(options).await, &request("print()\n", "bomb\n")).await;
    let error = built.unwrap_err();
    let Error::Rejected(rejection) = error else { panic!("{error:?}\n{text}") };
    assert_eq!(rejection.code, ErrorCode::BuildFailed, "{text}");
    for words in ["`bomb", "builder.max_processes"] {
        assert!(rejection.message.contains(words), "{}\n{text}", rejection.message);
    }
    let made = text.lines().find_map(|line| line.trim().strip_prefix("made ")).unwrap();
    assert!((1..100).contains(&made.parse::<u32>().unwrap()), "{made}");
}

#[tokio::test]
async fn a_fork_bomb_that_never_gives_up_ends_with_the_time_of_the_build() {
    let bomb = "while True:\n    try:\n        os.fork()\n    except OSError:\n        pass";
    let (url, _) = index(vec![File::new("endless-1.0.zip", source("endless", bomb))]).await;
    let source_packages = vec!["endless".to_owned()];
    let options =
        Options { source_packages, max_processes: 100, cpus: 0.5, limit_seconds: 20, ..of(url) };
    let (built, text) = build(&builder(options).await, &request("print()\n", "endless\n")).await;
    let rejection = built.unwrap_err().rejection();
    assert_eq!(rejection.code, ErrorCode::BuildTimeout, "{}\n{text}", rejection.message);
}
