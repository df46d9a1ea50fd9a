# What tests do to buckets.


def create_bucket(store, bucket):
    connect(store).create_bucket(Bucket=bucket)


def put(store, bucket, key, body, metadata):
    connect(store).put_object(Bucket=bucket, Key=key, Body=body.encode("latin-1"), Metadata=metadata)


def get(store, bucket, key):
    return connect(store).get_object(Bucket=bucket, Key=key)["Body"].read()


def delete(store, bucket, key):
    connect(store).delete_object(Bucket=bucket, Key=key)


def list_objects(store, bucket, prefix):
    client = connect(store)
    return [
        {"key": key, "size": size, "metadata": client.head_object(Bucket=bucket, Key=key)["Metadata"]}
        for key, size in keys_and_sizes(client, bucket, prefix)
    ]


def list_keys(store, bucket, prefix):
    return [key for key, _ in keys_and_sizes(connect(store), bucket, prefix)]


def start_upload(store, bucket, key):
    connect(store).create_multipart_upload(Bucket=bucket, Key=key)


def open_uploads(store, bucket, prefix):
    pages = connect(store).get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
    return sorted(upload["Key"] for page in pages for upload in page.get("Uploads", []))
