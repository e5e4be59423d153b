"""Past one process: shards, their parts joined to one output, and a cluster that runs them."""
