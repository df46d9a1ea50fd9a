# How the crash ring counts what is in a Delta table: by its log from the first commit on, without any library of Delta, and
# beside that by delta-rs.
import urllib.parse


def count_table(numbers, store, bucket, directory, topic, committed, pool):
    """As `count` of truth.py. What each commit adds must be the good records from where each of its topic-partitions was to
    where the commit says that it is; the positions at the end must be the offsets that Kafka knows."""
    client, local = connect(store), threading.local()
    sizes = {key.removeprefix(f"{directory}/"): size for key, size in keys_and_sizes(client, bucket, f"{directory}/")}

    def read(name):
        if not hasattr(local, "client"):
            local.client = connect(store)
        return local.client.get_object(Bucket=bucket, Key=f"{directory}/{name}")["Body"].read()

    names = [key.removeprefix("_delta_log/") for key in sizes if key.startswith("_delta_log/")]
    known, broken = commits(names), []
    lacking = set(range(max(known, default=-1) + 1)) - known.keys()
    if lacking or not known:
        return nothing([f"there are no commits {sorted(lacking)[:10]} of {len(known)}"])
    lines = pool.map(lambda at: read(f"_delta_log/{known[at]}").decode().splitlines(), sorted(known))
    history = [[json.loads(line) for line in commit] for commit in lines]
    state = {"txns": {}, "files": {}, "removed": set()}
    added = {action["add"]["path"]: action["add"] for commit in history for action in commit if "add" in action}
    for commit in history:
        for action in commit:
            apply(state, action)
    rows = dict(zip(added, pool.map(lambda add: rows_added(add, read, sizes, state["removed"], broken), added.values())))

    positions, evolutions = {}, 0
    for version, commit in enumerate(history):
        evolutions += version > 0 and any("metaData" in action for action in commit)
        broken += wrong_in(version, commit, positions, rows, numbers, f"{directory}:{topic}")
    seen = collections.defaultdict(list)
    for path in state["files"]:
        for row in rows[path] or ():
            seen[row].append(path)
    offsets = {f"{directory}:{topic}:{partition}": offset for partition, offset in committed.items()}
    if state["txns"] != offsets:
        broken.append(f"the table is at {state['txns']}, and Kafka at {offsets}")
    over = replay(names, read)
    if any(over[part] != state[part] for part in ("txns", "metadata", "protocol")) or over["files"].keys() != state[
            "files"].keys():
        broken.append(f"over the checkpoints {sorted(checkpoints(names))[-3:]} the table is another one")
    live = sum(len(rows[path] or ()) for path in state["files"])
    broken += wrong_by_delta_rs(store, bucket, directory, len(history) - 1, live)
    data = {name for name in sizes if name.endswith(".parquet") and not name.startswith("_delta_log/")}
    orphans = data - {urllib.parse.unquote(path) for path in added}
    table = {"version": len(history) - 1, "evolutions": evolutions, "checkpoints": len(checkpoints(names)),
             "orphans": len(orphans)}
    about = {"files": len(state["files"]), "bytes": sum(add["size"] for add in state["files"].values()), "multipart": 0}
    return about | {"broken": broken[:20], "table": table} | compared(numbers, seen, committed)


def nothing(broken):
    return {"records": 0, "files": 0, "bytes": 0, "multipart": 0, "duplicates": 0, "losses": 0, "unwritten": 0,
            "broken": broken, "examples": [], "table": None}


def rows_added(add, read, sizes, removed, broken):
    """The rows of a file as (p, n); None of one that is not in the table any more and was vacuumed."""
    name = urllib.parse.unquote(add["path"])
    if name not in sizes:
        if add["path"] not in removed:
            broken.append(f"{name} is in the table and not in the store")
        return None
    if sizes[name] != add["size"]:
        broken.append(f"{name} has {sizes[name]} bytes, and {add['size']} by the log")
    table = pyarrow.parquet.ParquetFile(io.BytesIO(read(name))).read(columns=["p", "n"])
    if table.num_rows != json.loads(add["stats"])["numRecords"]:
        broken.append(f"{name} has {table.num_rows} rows, and by the log {add['stats'][:100]}")
    return list(zip(table["p"].to_pylist(), table["n"].to_pylist()))


def wrong_in(version, commit, positions, rows, numbers, application):
    """What is wrong with a commit; `positions` are those before it, and after it."""
    wrong, expected = [], collections.Counter()
    for txn in (action["txn"] for action in commit if "txn" in action):
        ours, partition = txn["appId"].rsplit(":", 1)
        start, end = positions.get(txn["appId"], 0), txn["version"]
        if ours != application or end <= start:
            wrong.append(f"version {version} takes {txn['appId']} from {start} to {end}")
        positions[txn["appId"]] = end
        held = numbers[int(partition)]
        expected.update((int(partition), held[at]) for at in range(start, end) if at in held)
    adds = [action["add"] for action in commit if "add" in action]
    removes = [action["remove"] for action in commit if "remove" in action]
    if removes:
        # Compaction: the same rows in other files.
        expected.update(row for remove in removes for row in rows[remove["path"]] or ())
    files = [rows[add["path"]] for add in adds] + [rows[remove["path"]] for remove in removes]
    if None in files:
        return wrong
    found = collections.Counter(row for add in adds for row in rows[add["path"]])
    if found != expected:
        wrong.append(f"version {version} adds {found - expected} too much and {expected - found} too little"[:500])
    if any(action["dataChange"] is not (not removes) for action in adds + removes):
        wrong.append(f"version {version} says wrongly whether it changes data")
    return wrong


def wrong_by_delta_rs(store, bucket, directory, version, rows):
    from deltalake import DeltaTable

    options = {"AWS_ENDPOINT_URL": store["endpoint"], "AWS_ACCESS_KEY_ID": store["access_key"],
               "AWS_SECRET_ACCESS_KEY": store["secret_key"], "AWS_REGION": store["region"], "AWS_ALLOW_HTTP": "true"}
    table = DeltaTable(f"s3://{bucket}/{directory}", storage_options=options)
    read = table.to_pyarrow_table(columns=["p", "n"]).num_rows
    if (table.version(), read) == (version, rows):
        return []
    return [f"delta-rs reads version {table.version()} with {read} rows, and not {version} with {rows}"]
