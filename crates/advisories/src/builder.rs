//! Makes a database of records: takes them one at a time, and keeps of each no more than matching needs.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, SecondsFormat, Utc};
use sha2::{Digest as _, Sha256};

use crate::advisory::Advisory;
use crate::codec::{Writer, checksum};
use crate::database::{self, Database, Entry};
use crate::index::{self, Place};
use crate::record::{About, Record};
use crate::severity::Severity;
use crate::{EcosystemInfo, Error, Info};

#[derive(Debug)]
struct Kept {
    modified: DateTime<Utc>,
    withdrawn: bool,
    advisories: Vec<Advisory>,
    about: Vec<About>,
}

#[derive(Debug, Default)]
pub struct Builder {
    records: HashMap<Box<str>, Kept>,
    read: usize,
}

impl Builder {
    /// Of two records with one id the one that was changed last counts.
    pub fn add(&mut self, record: Record) {
        self.read += 1;
        let (id, modified) = (Box::from(record.id.as_str()), record.modified);
        if self.records.get(&id).is_some_and(|kept| kept.modified >= modified) {
            return;
        }
        let withdrawn = record.withdrawn.is_some();
        let (advisories, about) = if withdrawn {
            (Vec::new(), record.ecosystems().map(About::nothing).collect())
        } else {
            record.into_parts()
        };
        self.records.insert(id, Kept { modified, withdrawn, advisories, about });
    }

    /// The file's bytes. Where a record has no severity and `rated` knows the flaw, its is taken.
    pub fn finish(
        self,
        sources: Vec<String>,
        now: DateTime<Utc>,
        partial: bool,
        rated: Option<&Database>,
    ) -> Result<Vec<u8>, Error> {
        let mut info = Info {
            version: String::new(),
            partial,
            imported_at: now,
            newest: None,
            records: self.read,
            withdrawn: 0,
            elsewhere: 0,
            from_the_future: 0,
            repeated: self.read - self.records.len(),
            advisories: 0,
            packages: 0,
            ecosystems: BTreeMap::new(),
            sources,
        };
        let mut records: Vec<(Box<str>, Kept)> = self.records.into_iter().collect();
        records.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut hash = Sha256::new();
        let mut blocks: BTreeMap<Vec<u8>, Writer> = BTreeMap::new();
        for (id, kept) in records {
            hash.update(id.as_bytes());
            hash.update(kept.modified.timestamp_micros().to_be_bytes());
            hash.update([u8::from(kept.withdrawn)]);
            let dated = Some(kept.modified).filter(|modified| *modified <= now);
            info.from_the_future += usize::from(dated.is_none());
            info.newest = info.newest.max(dated);
            info.withdrawn += usize::from(kept.withdrawn);
            let mut ecosystems: Vec<&str> =
                kept.about.iter().map(|about| &*about.ecosystem).collect();
            ecosystems.sort_unstable();
            ecosystems.dedup();
            for name in ecosystems {
                let ecosystem = info.ecosystems.entry(name.to_owned()).or_default();
                ecosystem.newest = ecosystem.newest.max(dated);
                ecosystem.advisories += usize::from(!kept.withdrawn);
            }
            if kept.withdrawn {
                continue;
            }
            match kept.about.is_empty() {
                true => info.elsewhere += 1,
                false => info.advisories += 1,
            }
            for about in kept.about {
                let block = blocks.entry(index::key(&about.ecosystem, &about.name)).or_default();
                for advisory in &kept.advisories {
                    let entry = entry(advisory, &about, rated)?;
                    let mut writer = Writer::default();
                    entry.write(&mut writer);
                    block.bytes(&writer.0);
                }
            }
        }
        info.ecosystems.retain(|_, ecosystem| ecosystem.advisories > 0);
        for key in blocks.keys() {
            let name = key.split(|byte| *byte == 0).next().unwrap_or_default();
            let name = String::from_utf8_lossy(name);
            let ecosystem: Option<&mut EcosystemInfo> = info.ecosystems.get_mut(&*name);
            ecosystem.into_iter().for_each(|ecosystem| ecosystem.packages += 1);
        }
        if info.advisories == 0 {
            return Err(Error::DatabaseEmpty { path: info.sources.join(", ") });
        }
        info.packages = blocks.len();
        let day = info.newest.unwrap_or_default().to_rfc3339_opts(SecondsFormat::Secs, true);
        info.version = format!("{day}-{}", hex::encode(&hash.finalize()[..4]));
        encode(&info, &blocks)
    }
}

fn entry(advisory: &Advisory, about: &About, rated: Option<&Database>) -> Result<Entry, Error> {
    let mut rating = about.rating;
    if rating.severity == Severity::Unknown
        && let Some(rated) = rated
    {
        let known = rated.entries(&about.ecosystem, &about.name)?;
        let same = |known: &&Entry| {
            known.advisory.names().any(|name| advisory.names().any(|own| own == name))
        };
        if let Some(known) = known.iter().find(same) {
            rating = known.rating;
        }
    }
    Ok(Entry { rating, versions: about.versions.clone(), advisory: advisory.clone() })
}

fn encode(info: &Info, blocks: &BTreeMap<Vec<u8>, Writer>) -> Result<Vec<u8>, Error> {
    let mut offset = 0;
    let rows: Vec<(&[u8], Place)> = blocks
        .iter()
        .map(|(key, block)| {
            let place =
                Place { offset, length: block.0.len() as u32, checksum: checksum(&block.0) };
            offset += block.0.len() as u64;
            (key.as_slice(), place)
        })
        .collect();
    let info = serde_json::to_vec(info)?;
    let index = index::encode(rows.into_iter());
    let mut file = database::header(&info, &index, offset);
    file.extend_from_slice(&info);
    file.extend_from_slice(&index);
    for block in blocks.values() {
        file.extend_from_slice(&block.0);
    }
    Ok(file)
}
