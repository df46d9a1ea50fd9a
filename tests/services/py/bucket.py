# What tests do to a bucket beyond the harness: versions, and whether objects are still the same. Follows store.py.


def keep_versions(store, bucket):
    connect(store).put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})


def versions(store, bucket):
    """How many versions and delete markers each key has had."""
    found = {}
    for page in connect(store).get_paginator("list_object_versions").paginate(Bucket=bucket):
        for item in page.get("Versions", []) + page.get("DeleteMarkers", []):
            found[item["Key"]] = found.get(item["Key"], 0) + 1
    return found


def etags(store, bucket):
    """The ETag and time of change of each object."""
    found = {}
    for page in connect(store).get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page.get("Contents", []):
            found[item["Key"]] = f"{item['ETag']} {item['LastModified'].isoformat()}"
    return found
