"""A client of an S3 store. Put in front of the scripts that talk to one."""
import boto3
from botocore.config import Config


def connect(store):
    return boto3.client(
        "s3",
        endpoint_url=store["endpoint"],
        aws_access_key_id=store["access_key"],
        aws_secret_access_key=store["secret_key"],
        region_name=store["region"],
        verify=store.get("certificate"),
        config=Config(s3={"addressing_style": "path"}, connect_timeout=5, read_timeout=30, retries={"max_attempts": 3}),
    )


def keys_and_sizes(client, bucket, prefix):
    """Of all objects below the prefix, in the order of the keys' bytes."""
    found = []
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        found += [(item["Key"], item["Size"]) for item in page.get("Contents", [])]
    return sorted(found, key=lambda item: item[0].encode())


