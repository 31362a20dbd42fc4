"""The data sets room: published data sets as pictures and tables to index and to measure on."""
