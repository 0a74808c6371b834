#!/usr/bin/env bash
# A real Apache Kafka, one node as broker and controller, for the integration tests. Linux; needs java 17 and,
# for the first call only, mvn. Run it from anywhere: all it makes is below target/services/kafka.
#
#   kafka.sh up      start it if it is down; the last line on stdout is the bootstrap address
#   kafka.sh down    stop it in order
#   kafka.sh kill    stop it as a crash would; its data stays
#   kafka.sh start   start it again on the data it has
#   kafka.sh wipe    stop it and forget its data
#   kafka.sh status  say whether it answers (exit code 0) or not (1)
#   kafka.sh exec CLASS ARGS…   run a class of Kafka's jars, such as org.apache.kafka.tools.TopicCommand
#
# Listeners on 127.0.0.1, counted from KAFKA_PORT (19092):
#   +0 PLAINTEXT        no login, every right
#   +1 SASL_PLAINTEXT   PLAIN as alice/alice-secret (every right) or bob/bob-secret (none); SCRAM for users made by a test
#   +2 SASL_SSL         the same users; its certificate is signed by target/services/kafka/ca.pem
#   +3 CONTROLLER       Kafka's own
# Brokers with different KAFKA_PORTs are apart and may run side by side.
set -euo pipefail

kafka=4.4.0
log4j=2.25.5 # the one this Kafka is built with
dependency_plugin=3.8.1

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
home=$root/target/services/kafka
lib=$home/lib
port=${KAFKA_PORT:-19092}
run=$home/$port
data=$run/data
conf=$run/server.properties
log=$run/broker.log
pid_file=$run/pid

say() { printf 'kafka: %s\n' "$*" >&2; }
die() {
  say "$*"
  exit 1
}

if ! [[ $port =~ ^[1-9][0-9]{0,4}$ ]] || ((port > 65532)); then die "KAFKA_PORT is not a port: $port"; fi

apt_install() {
  command -v apt-get > /dev/null && [ "$(id -u)" = 0 ] || return 1
  say "installing $*"
  { apt-get install -y --no-install-recommends "$@" || { apt-get update && apt-get install -y --no-install-recommends "$@"; }; } > /dev/null 2>&1
}

need_java() {
  command -v java > /dev/null || apt_install openjdk-17-jre-headless || apt_install default-jre-headless ||
    die 'java is needed, 17 or newer: install openjdk-17-jre-headless (Debian) or another JRE'
  local version
  version=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1) || true
  ((${version:-0} >= 17)) || die "java 17 or newer is needed: 'java -version' says ${version:-nothing known}"
}

need_mvn() {
  command -v mvn > /dev/null || apt_install maven ||
    die 'mvn is needed to fetch the jars of Kafka: install maven'
}

# Changes are made by one caller at a time: tests that run side by side all say `up`. Tools that only read need no lock.
lock() {
  command -v flock > /dev/null || die 'flock is needed: install util-linux'
  mkdir -p "$home"
  exec 9> "$home/lock"
  flock 9
}

fetch() {
  local want="kafka $kafka, log4j $log4j"
  [ "$(cat "$lib/versions" 2> /dev/null)" != "$want" ] || return 0
  need_java
  need_mvn
  say "fetching the jars of $want"
  local new=$home/lib.new
  rm -rf "$new"
  mkdir -p "$new"
  # kafka-tools has the admin and console tools; Kafka Connect below it, a web server and all, is not wanted.
  # slf4j-impl and not slf4j2-impl: Kafka still uses slf4j 1.7.
  cat > "$new/pom.xml" << END
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>test</groupId><artifactId>kafka-lib</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$kafka</version></dependency>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$kafka</version>
      <exclusions>
        <exclusion><groupId>org.apache.kafka</groupId><artifactId>connect-runtime</artifactId></exclusion>
      </exclusions>
    </dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>$log4j</version></dependency>
  </dependencies>
</project>
END
  mvn -B -q -f "$new/pom.xml" "org.apache.maven.plugins:maven-dependency-plugin:$dependency_plugin:copy-dependencies" \
    -DoutputDirectory="$new" < /dev/null >&2 || die 'the jars could not be fetched: see what mvn says above'
  printf '%s\n' "$want" > "$new/versions"
  # Only a whole folder gets the name, so that a fetch cut off is done again.
  rm -rf "$lib"
  mv "$new" "$lib"
}

write_log4j() {
  mkdir -p "$home"
  cat > "$home/log4j2.properties.$$" << 'END'
appender.err.type = Console
appender.err.name = err
appender.err.target = SYSTEM_ERR
appender.err.layout.type = PatternLayout
appender.err.layout.pattern = %d{ISO8601} %p %m (%c)%n
rootLogger = ${sys:kafka.log.level:-WARN}, err
END
  # Renamed, so that no other JVM that starts now reads half a file.
  mv "$home/log4j2.properties.$$" "$home/log4j2.properties"
}

# The quick compiler and the small collector start soonest; on a machine of few cores the broker serves no slower by them.
jvm=(java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 "-Dlog4j2.configurationFile=$home/log4j2.properties" -cp "$lib/*")
java_tool=("${jvm[@]}" -Xmx256m)

# A CA of our own and a certificate signed by it, by keytool since that comes with java.
make_certificates() {
  [ ! -s "$home/ca.pem" ] || [ ! -s "$home/server.p12" ] || return 0
  say 'making the certificates'
  local new=$home/tls.new
  rm -rf "$new"
  mkdir -p "$new"
  (
    cd "$new" || exit
    key=(-keyalg RSA -keysize 2048 -validity 3650)
    ca=(-keystore ca.p12 -storepass secret -alias ca)
    server=(-keystore server.p12 -storepass secret -alias server)
    # Joined by &&: before the || below, set -e does not hold.
    keytool -genkeypair "${ca[@]}" "${key[@]}" -dname CN=kafka-test-ca -ext bc:c -ext ku:c=keyCertSign,cRLSign &&
      keytool -exportcert "${ca[@]}" -rfc -file ca.pem &&
      keytool -genkeypair "${server[@]}" "${key[@]}" -dname CN=localhost &&
      keytool -certreq "${server[@]}" -file server.csr &&
      keytool -gencert "${ca[@]}" -validity 3650 -ext san=ip:127.0.0.1,dns:localhost -ext eku=serverAuth \
        -infile server.csr -rfc -outfile server.pem &&
      keytool -importcert -keystore server.p12 -storepass secret -alias ca -noprompt -file ca.pem &&
      keytool -importcert "${server[@]}" -noprompt -file server.pem
  ) > "$home/keytool.log" 2>&1 || {
    cat "$home/keytool.log" >&2
    die 'keytool could not make the certificates'
  }
  mv "$new/server.p12" "$new/ca.pem" "$home/"
  rm -rf "$new"
}

write_conf() {
  mkdir -p "$run"
  # The voters are written here and not into the data, so that they cannot disagree with the ports.
  cat > "$conf" << END
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((port + 3))
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listeners=PLAINTEXT://127.0.0.1:$port,SASL_PLAINTEXT://127.0.0.1:$((port + 1)),SASL_SSL://127.0.0.1:$((port + 2)),CONTROLLER://127.0.0.1:$((port + 3))
advertised.listeners=PLAINTEXT://127.0.0.1:$port,SASL_PLAINTEXT://127.0.0.1:$((port + 1)),SASL_SSL://127.0.0.1:$((port + 2))
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT
log.dirs=$data

sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
END
  local listener
  for listener in sasl_plaintext sasl_ssl; do
    cat >> "$conf" << END
listener.name.$listener.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_alice="alice-secret" user_bob="bob-secret";
listener.name.$listener.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.$listener.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
END
  done
  cat >> "$conf" << END
listener.name.sasl_ssl.ssl.keystore.type=PKCS12
listener.name.sasl_ssl.ssl.keystore.location=$home/server.p12
listener.name.sasl_ssl.ssl.keystore.password=secret
listener.name.sasl_ssl.ssl.key.password=secret

# ANONYMOUS is who comes by PLAINTEXT, the broker itself too. Everybody else, bob first, has the rights a test gives.
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:admin;User:alice
allow.everyone.if.no.acl.found=false

num.partitions=1
auto.create.topics.enable=false
delete.topic.enable=true
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
# Age is by the records' own times, which tests set long ago: nothing goes unless a topic asks for it.
log.retention.ms=-1

# No wait for more members of a group, and a lost one may be missed soon.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.heartbeat.interval.ms=500
group.consumer.min.heartbeat.interval.ms=500
group.consumer.min.session.timeout.ms=1000
# After a kill the broker is let in again only when its last life has timed out, which by default is after 9 s.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500

# Small: the threads of the network are per listener, and the cleaner would take 128 MiB at once.
num.network.threads=1
num.io.threads=2
num.recovery.threads.per.data.dir=1
background.threads=2
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=4194304
END
}

pid() { cat "$pid_file" 2> /dev/null; }

# The command line is looked at too: after a restart of the machine the number may be another program's.
alive() {
  local pid
  pid=$(pid) && [ -n "$pid" ] && grep -qsF "$conf" "/proc/$pid/cmdline"
}

listens() { (exec 3<> "/dev/tcp/127.0.0.1/$1") 2> /dev/null; }

# Asks for the metadata of no topic, which a port that is merely open does not answer and a broker that may not lead
# partitions yet answers with no broker. In bash, since a JVM takes longer for it than all else in `up`.
answers() {
  local reply
  reply=$(
    exec 2> /dev/null 3<> "/dev/tcp/127.0.0.1/$port" || exit 1
    printf '\x00\x00\x00\x0e\x00\x03\x00\x01\x00\x00\x00\x01\xff\xff\x00\x00\x00\x00' >&3
    timeout 5 head -c 12 <&3 | od -An -v -tx1 | tr -d ' \n'
  ) || return 1
  [ "${reply:8}" = 0000000100000001 ]
}

launch() {
  local p
  for p in "$port" $((port + 1)) $((port + 2)) $((port + 3)); do
    ! listens "$p" || die "port $p is taken, and not by the broker of $pid_file"
  done
  write_log4j
  write_conf
  if [ ! -s "$data/meta.properties" ]; then
    say 'formatting the storage'
    # The id is "millstream-tests" in base64; one that is known saves a JVM.
    "${java_tool[@]}" kafka.tools.StorageTool format -t bWlsbHN0cmVhbS10ZXN0cw -c "$conf" --ignore-formatted > "$log" 2>&1 || {
      cat "$log" >&2
      die 'the storage could not be formatted'
    }
  fi
  # The jars unpack native code, which a kill would leave in /tmp.
  rm -rf "$run/tmp"
  mkdir "$run/tmp"
  say "starting Kafka $kafka"
  # What the caller holds open is closed for the broker: else one who waits for the end of our output, or for the lock,
  # would wait for the broker's end.
  setsid "${jvm[@]}" -Xms64m -Xmx512m -XX:+ExitOnOutOfMemoryError -Dkafka.log.level=INFO "-Djava.io.tmpdir=$run/tmp" \
    kafka.Kafka "$conf" \
    < /dev/null >> "$log" 2>&1 3>&- 9>&- &
  printf '%s\n' $! > "$pid_file"
  # For a moment the child is still this script, not yet the broker.
  until alive || ! kill -0 $! 2> /dev/null; do sleep 0.05; done
}

await() {
  local end=$((SECONDS + 60))
  until answers; do
    if ! alive || ((SECONDS >= end)); then
      tail -n 40 "$log" >&2 || true
      if alive; then
        stop KILL
        die "the broker did not answer within 60 s; its log, $log, ends as above"
      fi
      die "the broker ended by itself; its log, $log, ends as above"
    fi
    sleep 0.2
  done
}

# stop SIGNAL [SECONDS]: true if it ended in time.
stop() {
  alive || return 0
  local pid end=$((SECONDS + ${2:-20}))
  pid=$(pid)
  kill "-$1" "$pid" 2> /dev/null || true
  while alive; do
    ((SECONDS < end)) || return 1
    sleep 0.1
  done
  rm -f "$pid_file"
}

down() {
  alive || {
    say 'is down'
    return 0
  }
  stop TERM 20 || {
    say 'did not stop within 20 s: killing it'
    stop KILL || die "cannot be killed: $(pid)"
  }
  say 'stopped'
}

up() {
  # What is printed on the way is not for stdout: its last line is the answer.
  exec 3>&1 1>&2
  lock
  if ! alive; then
    fetch
    need_java
    make_certificates
    launch
  fi
  await
  printf '127.0.0.1:%s\n' "$port" >&3
}

case ${1:-} in
  up) up ;;
  start)
    [ -s "$data/meta.properties" ] || die "there is no data to start on: 'up' makes it"
    up
    ;;
  down)
    lock
    down
    ;;
  kill)
    lock
    alive || die 'is down: there is nothing to kill'
    stop KILL || die "cannot be killed: $(pid)"
    say 'killed'
    ;;
  wipe)
    lock
    down
    rm -rf "$run"
    ;;
  status)
    if alive && answers; then
      printf 'up 127.0.0.1:%s pid %s\n' "$port" "$(pid)"
    elif alive; then
      printf 'does not answer 127.0.0.1:%s pid %s\n' "$port" "$(pid)"
      exit 1
    else
      printf 'down 127.0.0.1:%s\n' "$port"
      exit 1
    fi
    ;;
  exec)
    (($# >= 2)) || die 'exec needs a class'
    shift
    # Under the lock only while the jars are fetched: what runs may call for long, and this script again.
    (lock; fetch)
    need_java
    [ -s "$home/log4j2.properties" ] || write_log4j
    exec "${java_tool[@]}" "$@"
    ;;
  *)
    sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
