//! What lanes want in one commit, and the files that they share there: which rows go into which file, and who is answered what.

use std::collections::BTreeMap;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::debug;
use writer::PublishedFile;

use crate::decide::is_whole;
use crate::table::{CommitError, Committed, NewFile, NewRows, Proposal};

/// Bytes of rows in memory after which another file begins: some tens of megabytes of Parquet.
pub(crate) const FILE_ROWS_BYTES: usize = 128 * 1024 * 1024;

pub(crate) type Answer = Result<Committed, CommitError>;

/// What lanes want in one commit, and the files that they share.
pub(crate) struct Batch {
    entries: Vec<Entry>,
    shared: Vec<SharedFile>,
    /// When the first of them asked.
    pub(crate) since: Instant,
}

struct Entry {
    proposal: Proposal,
    /// Until it is answered.
    reply: Option<oneshot::Sender<Answer>>,
}

/// Rows of a proposal: its number, and theirs among its rows.
pub(crate) type Part = (usize, usize);

struct SharedFile {
    parts: Vec<Part>,
    file: NewFile,
    published: PublishedFile,
}

impl Batch {
    /// A batch of proposals of different applications; no file is made yet.
    pub(crate) fn new(proposals: Vec<(Proposal, oneshot::Sender<Answer>)>, since: Instant) -> Batch {
        let entries = proposals.into_iter().map(|(proposal, reply)| Entry { proposal, reply: Some(reply) });
        Batch { entries: entries.collect(), shared: Vec::new(), since }
    }

    /// The proposals that are not answered, each with its number.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (usize, &Proposal)> {
        let waiting = self.entries.iter().enumerate().filter(|(_, entry)| entry.reply.is_some());
        waiting.map(|(number, entry)| (number, &entry.proposal))
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.waiting().next().is_none()
    }

    /// Lanes that are gone want nothing any more.
    pub(crate) fn forget_gone(&mut self) {
        for entry in self.entries.iter_mut().filter(|entry| entry.reply.as_ref().is_some_and(|reply| reply.is_closed()))
        {
            entry.reply = None;
        }
    }

    /// Answers the proposal `number`: it is in `version`.
    pub(crate) fn done(&mut self, number: usize, version: u64) {
        let shared = self.published(number);
        self.answer(number, Ok(Committed { version, shared }));
    }

    /// Answers the proposal `number`: it is not in the table.
    pub(crate) fn refuse(&mut self, number: usize, error: CommitError) {
        self.answer(number, Err(error));
    }

    /// Answers some proposals by their numbers, each with the version that it is in.
    pub(crate) fn answer_all(&mut self, answers: Vec<(usize, Result<u64, CommitError>)>) {
        for (number, answer) in answers {
            match answer {
                Ok(version) => self.done(number, version),
                Err(error) => self.refuse(number, error),
            }
        }
    }

    pub(crate) fn refuse_owners(&mut self, parts: &[Part], why: &str) {
        for (number, _) in parts {
            self.refuse(*number, CommitError::Refused(why.to_owned()));
        }
    }

    fn answer(&mut self, number: usize, answer: Answer) {
        let entry = &mut self.entries[number];
        entry.proposal.rows = Vec::new();
        if let Some(reply) = entry.reply.take() {
            let _ = reply.send(answer);
        }
    }

    /// What became of the rows of a proposal. Each file is counted by the first that has rows in it.
    fn published(&self, number: usize) -> Vec<PublishedFile> {
        let parts = self.shared.iter().flat_map(|file| file.parts.iter().map(move |part| (file, *part)));
        let own = parts.filter(|(_, (owner, _))| *owner == number);
        own.map(|(file, part)| {
            let rows = self.rows(part).rows.rows();
            let is_counted_elsewhere = file.parts.first() != Some(&part);
            PublishedFile { rows, records: rows, is_counted_elsewhere, ..file.published.clone() }
        })
        .collect()
    }

    pub(crate) fn rows(&self, (number, rows): Part) -> &NewRows {
        &self.entries[number].proposal.rows[rows]
    }

    /// Keeps the files whose proposals all wait for an answer and which `fits` the table as they are. The rows of others need
    /// new files; the old ones are left to whoever vacuums the table.
    pub(crate) fn keep_whole_files(&mut self, fits: impl Fn(&NewFile) -> bool) {
        let waits: Vec<bool> = self.entries.iter().map(|entry| entry.reply.is_some()).collect();
        self.shared.retain(|shared| {
            let is_kept = is_whole(shared.parts.iter().map(|(number, _)| *number), &waits) && fits(&shared.file);
            if !is_kept {
                debug!(name = shared.file.name, "a shared file is not committed");
            }
            is_kept
        });
    }

    /// Takes a file with the rows of `parts`.
    pub(crate) fn add_file(&mut self, parts: Vec<Part>, file: NewFile, published: PublishedFile) {
        self.shared.push(SharedFile { parts, file, published });
    }

    /// Whether rows that wait are in no file.
    pub(crate) fn lacks_files(&self) -> bool {
        let wanted: usize = self.waiting().map(|(_, proposal)| proposal.rows.len()).sum();
        wanted > self.shared.iter().map(|shared| shared.parts.len()).sum()
    }

    /// The files of all proposals that wait.
    pub(crate) fn files(&self) -> impl Iterator<Item = &NewFile> {
        let own = self.waiting().flat_map(|(_, proposal)| &proposal.files);
        own.chain(self.shared.iter().map(|shared| &shared.file))
    }

    /// Rows that wait and are in no file, those that one file may take together.
    pub(crate) fn lacking(&self) -> Vec<Vec<Part>> {
        let have: Vec<Part> = self.shared.iter().flat_map(|shared| shared.parts.iter().copied()).collect();
        let mut by_path: BTreeMap<&str, Vec<(usize, Vec<Part>)>> = BTreeMap::new();
        for (number, proposal) in self.waiting() {
            for (at, rows) in proposal.rows.iter().enumerate().filter(|(at, _)| !have.contains(&(number, *at))) {
                let files = by_path.entry(rows.rows.path()).or_default();
                match files.last_mut().filter(|(bytes, _)| bytes + rows.rows.bytes() <= FILE_ROWS_BYTES) {
                    Some((bytes, parts)) => {
                        *bytes += rows.rows.bytes();
                        parts.push((number, at));
                    }
                    None => files.push((rows.rows.bytes(), vec![(number, at)])),
                }
            }
        }
        by_path.into_values().flatten().map(|(_, parts)| parts).collect()
    }
}
