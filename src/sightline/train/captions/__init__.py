"""Pictures without captions turned into a captions table by a captioning model."""
