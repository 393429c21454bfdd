//! How bad a finding is: what the database itself says, else the CVSS base score.

use std::fmt;
use std::str::FromStr;

use cvss::Cvss;
use serde::{Deserialize, Serialize};

use crate::codec::{Damaged, Reader, Writer};

/// From the least to the worst; what nobody rated comes first, so that `max` takes what is known.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum Severity {
    #[default]
    Unknown,
    Low,
    Medium,
    High,
    Critical,
}

impl Severity {
    /// The worst first: the order of reports.
    pub const ALL: [Self; 5] = [Self::Critical, Self::High, Self::Medium, Self::Low, Self::Unknown];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "CRITICAL",
            Self::High => "HIGH",
            Self::Medium => "MEDIUM",
            Self::Low => "LOW",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// The rating scale of CVSS v3 and v4. A score of 0 ("none") is still a record that someone wrote: LOW.
    fn of_score(score: f64) -> Self {
        match score {
            9.0.. => Self::Critical,
            7.0.. => Self::High,
            4.0.. => Self::Medium,
            _ => Self::Low,
        }
    }

    /// The words that databases use, in any case; `None` for a word that says nothing.
    pub fn of_word(word: &str) -> Option<Self> {
        Some(match word.to_ascii_uppercase().as_str() {
            "CRITICAL" => Self::Critical,
            "HIGH" | "IMPORTANT" => Self::High,
            "MEDIUM" | "MODERATE" => Self::Medium,
            "LOW" | "NEGLIGIBLE" | "UNIMPORTANT" | "NONE" => Self::Low,
            _ => return None,
        })
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A severity, and the CVSS base score behind it where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Rating {
    pub severity: Severity,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
}

impl Rating {
    pub const CRITICAL: Self = Self { severity: Severity::Critical, score: None };

    /// `own` is the database's word, `vectors` the CVSS vectors of the record. The database's word wins:
    /// it knows the package, the vector only the flaw. Of the vectors the newest version of CVSS that can be read.
    pub fn of<'a>(own: Option<&str>, vectors: impl IntoIterator<Item = &'a str>) -> Self {
        let score = vectors.into_iter().filter_map(base_score).max_by_key(|(version, _)| *version);
        let own = own.and_then(Severity::of_word);
        match (own, score) {
            (Some(severity), score) => {
                let score = score
                    .map(|(_, score)| score)
                    .filter(|score| Severity::of_score(*score) == severity);
                Self { severity, score }
            }
            (None, Some((_, score))) => {
                Self { severity: Severity::of_score(score), score: Some(score) }
            }
            (None, None) => Self::default(),
        }
    }

    pub(crate) fn write(self, to: &mut Writer) {
        let at = Severity::ALL.iter().position(|severity| *severity == self.severity);
        to.number(at.unwrap_or_default() as u64);
        to.byte(self.score.is_some().into());
        if let Some(score) = self.score {
            to.fixed(score.to_bits());
        }
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        let at = usize::try_from(from.number()?).map_err(|_| Damaged)?;
        let severity = *Severity::ALL.get(at).ok_or(Damaged)?;
        let score = match from.byte()? {
            0 => None,
            _ => Some(f64::from_bits(from.fixed()?)),
        };
        Ok(Self { severity, score })
    }

    /// The worse of the two.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        let rank = |rating: &Self| (rating.severity, rating.score.unwrap_or(0.0));
        if rank(&other) > rank(&self) { other } else { self }
    }
}

/// The version of CVSS (2, 3, 4) and the base score, 0.0 to 10.0.
///
/// Threat and environment change the score of a v4 vector; what someone else's environment is like says nothing
/// here, so only the base metrics are read.
fn base_score(vector: &str) -> Option<(u8, f64)> {
    const V4_BASE: [&str; 11] = ["AV", "AC", "AT", "PR", "UI", "VC", "VI", "VA", "SC", "SI", "SA"];
    let vector = vector.trim();
    if let Some(metrics) = vector.strip_prefix("CVSS:4.0/") {
        let mut base = String::from("CVSS:4.0");
        for metric in metrics.split('/') {
            let name = metric.split(':').next().unwrap_or_default();
            if V4_BASE.contains(&name) {
                base.push('/');
                base.push_str(metric);
            }
        }
        // The whole must be a vector too: a typing error is not a base vector with less in it.
        Cvss::from_str(vector).ok()?;
        return Cvss::from_str(&base).ok().map(|cvss| (4, cvss.score()));
    }
    match Cvss::from_str(vector).ok()? {
        Cvss::CvssV30(vector) | Cvss::CvssV31(vector) => Some((3, vector.base_score().value())),
        cvss @ Cvss::CvssV20(_) => Some((2, cvss.score())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V3_HIGH: &str = "CVSS:3.1/AV:N/AC:H/PR:N/UI:N/S:U/C:H/I:H/A:H";
    const V4_CRITICAL: &str = "CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N";

    #[test]
    fn the_databases_own_word_wins_over_the_vector() {
        let rating = Rating::of(Some("MODERATE"), [V4_CRITICAL]);
        assert_eq!(rating, Rating { severity: Severity::Medium, score: None });
    }

    #[test]
    fn a_word_that_says_nothing_leaves_it_to_the_vector() {
        assert_eq!(Rating::of(Some("unscored"), [V3_HIGH]).severity, Severity::High);
    }

    #[test]
    fn of_several_vectors_the_newest_cvss_counts_in_any_order() {
        assert_eq!(Rating::of(None, [V3_HIGH, V4_CRITICAL]).severity, Severity::Critical);
        assert_eq!(Rating::of(None, [V4_CRITICAL, V3_HIGH]).severity, Severity::Critical);
    }

    #[test]
    fn the_base_score_leaves_out_how_well_the_flaw_is_attacked_today() {
        let with_threat = format!("{V4_CRITICAL}/E:U");
        assert_eq!(Rating::of(None, [with_threat.as_str()]), Rating::of(None, [V4_CRITICAL]));
    }

    #[test]
    fn version_2_vectors_are_read() {
        let rating = Rating::of(None, ["AV:N/AC:L/Au:N/C:P/I:P/A:P"]);
        assert_eq!(rating, Rating { severity: Severity::High, score: Some(7.5) });
    }

    #[test]
    fn what_cannot_be_read_is_unknown_and_never_low() {
        for vector in ["", "CVSS:9.9/AV:N", "CVSS:4.0/AV:N", "9.8", "CVSS:4.0/AV:N/AC:L/AT:N/XX:N"]
        {
            assert_eq!(Rating::of(None, [vector]).severity, Severity::Unknown, "{vector}");
        }
        assert_eq!(Rating::of(None, []).severity, Severity::Unknown);
    }

    #[test]
    fn any_known_severity_is_worse_than_unknown() {
        assert_eq!(Severity::ALL.into_iter().max(), Some(Severity::Critical));
        assert!(Severity::Unknown < Severity::Low);
    }
}
