"""The data sets room: published data sets turned into pictures and tables to index and to measure on."""
