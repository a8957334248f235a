"""Every reader of files and answers from outside, given malformed ones: a corpus, and fuzzers that look for more."""
