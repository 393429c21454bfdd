//! Names that were perhaps meant, for a package that the index does not have. Pure.
//!
//! The index has no call for it, and its list of all names is tens of megabytes: what is known here are names in
//! common use, and modules that are in a package of another name.

/// The best known first.
const KNOWN: &str = include_str!("near_names/known.txt");
/// Modules, and the packages that they are in.
const MODULES: &[(&str, &str)] = &[
    ("bs4", "beautifulsoup4"),
    ("crypto", "pycryptodome"),
    ("cv2", "opencv-python-headless"),
    ("dateutil", "python-dateutil"),
    ("docx", "python-docx"),
    ("dotenv", "python-dotenv"),
    ("fitz", "pymupdf"),
    ("git", "gitpython"),
    ("google", "google-api-core"),
    ("jose", "python-jose"),
    ("jwt", "pyjwt"),
    ("magic", "python-magic"),
    ("mpl-toolkits", "matplotlib"),
    ("mysqldb", "mysqlclient"),
    ("nacl", "pynacl"),
    ("openssl", "pyopenssl"),
    ("pil", "pillow"),
    ("pptx", "python-pptx"),
    ("pylab", "matplotlib"),
    ("serial", "pyserial"),
    ("skimage", "scikit-image"),
    ("sklearn", "scikit-learn"),
    ("stl", "numpy-stl"),
    ("usb", "pyusb"),
    ("yaml", "pyyaml"),
    ("zmq", "pyzmq"),
];
const MOST: usize = 3;

/// The nearest first; none, when none is near.
pub fn near(name: &str) -> Vec<&'static str> {
    let name = normal(name);
    let mut found: Vec<(usize, &str)> = MODULES
        .iter()
        .filter(|(module, package)| *module == name && *package != name)
        .map(|(_, package)| (0, *package))
        .collect();
    // A slip in a short name is as likely another name.
    let limit = match name.len() {
        0..=3 => 0,
        4..=6 => 1,
        _ => 2,
    };
    let bare = |name: &str| name.replace('-', "");
    for known in KNOWN.split_whitespace().filter(|known| *known != name) {
        let distance = if bare(known) == bare(&name) {
            0
        } else if known.len().abs_diff(name.len()) > limit {
            continue;
        } else {
            distance(&name, known)
        };
        if distance <= limit && !found.iter().any(|(_, other)| other == &known) {
            found.push((distance, known));
        }
    }
    found.sort_by_key(|(distance, _)| *distance);
    found.into_iter().take(MOST).map(|(_, name)| name).collect()
}

/// What to say of them: empty, or a question.
pub fn question(name: &str) -> String {
    match near(name).as_slice() {
        [] => String::new(),
        [one] => format!(" Did you mean `{one}`?"),
        several => format!(" Did you mean one of `{}`?", several.join("`, `")),
    }
}

/// As an index compares names (PEP 503).
fn normal(name: &str) -> String {
    name.to_ascii_lowercase().replace(['_', '.'], "-")
}

/// How many letters are put in, left out, taken for another, or swapped with their neighbour.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let width = other.len() + 1;
    let mut rows: Vec<Vec<usize>> = vec![(0..width).collect()];
    for (i, a) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let mut least =
                (rows[i][j + 1] + 1).min(row[j] + 1).min(rows[i][j] + usize::from(a != b));
            if i > 0 && j > 0 && *a == other[j - 1] && one[i - 1] == *b {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_lead_to_the_name_that_was_meant() {
        for (slip, meant) in [
            ("nunpy", "numpy"),
            ("nmupy", "numpy"),
            ("Pandsa", "pandas"),
            ("reqeusts", "requests"),
            ("request", "requests"),
            ("matplotib", "matplotlib"),
            ("scikitlearn", "scikit-learn"),
            ("Scikit_Learn2", "scikit-learn"),
            ("beautifulsoup", "beautifulsoup4"),
            ("tensorflw", "tensorflow"),
        ] {
            assert_eq!(near(slip).first(), Some(&meant), "{slip}: {:?}", near(slip));
        }
    }

    #[test]
    fn modules_lead_to_their_packages() {
        for (module, package) in [
            ("sklearn", "scikit-learn"),
            ("cv2", "opencv-python-headless"),
            ("PIL", "pillow"),
            ("yaml", "pyyaml"),
            ("bs4", "beautifulsoup4"),
        ] {
            assert_eq!(near(module).first(), Some(&package), "{module}");
        }
    }

    #[test]
    fn what_is_like_nothing_gets_no_suggestion() {
        for name in ["", "x", "mecapy-no-such-package-2f8c", "internal-billing", "日本"] {
            assert_eq!(near(name), Vec::<&str>::new(), "{name}");
        }
        assert_eq!(question("internal-billing"), "");
        assert_eq!(question("nunpy"), " Did you mean `numpy`?");
    }

    #[test]
    fn the_list_is_of_normal_names() {
        for name in KNOWN.split_whitespace().chain(MODULES.iter().map(|(_, package)| *package)) {
            assert_eq!(normal(name), name);
        }
    }
}
