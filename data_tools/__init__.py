"""Medical data sets in, TFRecord shards out; phantoms; inspection."""
