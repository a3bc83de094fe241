"""A run as a page, or as pictures: what it learned, where it errs, and how a chosen utterance sounds and is heard."""
