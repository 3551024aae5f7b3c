//! Histories that a correct log made by chance, and what spoils them.
