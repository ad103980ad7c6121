"""The pocket zoo: procedural scenes and two small vision transformers."""
