-- Lines from a Kafka topic, words counted, and the counts into another topic: the word is the key, so that a partition
-- holds all counts of a word in order, and the last one is right.
--
--   cargo run --features kafka -- run sql/kafka/word_count.sql
--
-- sql/kafka/README.md says how to make the topics, and how to name another broker.

-- A table that is read and written: `topic` names what is written, and also what is read where `subscribe` does not say
-- otherwise. Without the option `format` its columns are those of a message: key, value, topic, partition, offset,
-- timestamp. 'exactlyOnce' makes each batch one transaction; without it a batch that was under way at a crash comes
-- again.
CREATE UNBOUNDED EXTERNAL TABLE lines STORED AS KAFKA
OPTIONS ('kafka.bootstrap.servers' 'localhost:9092', 'topic' 'millstream-lines', 'exactlyOnce' 'true',
         'startingOffsets' 'earliest', 'maxOffsetsPerTrigger' '12');

CREATE UNBOUNDED EXTERNAL TABLE words STORED AS KAFKA
OPTIONS ('kafka.bootstrap.servers' 'localhost:9092', 'topic' 'millstream-words', 'exactlyOnce' 'true',
         'startingOffsets' 'earliest');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

-- So that there is something to count.
CREATE UNBOUNDED EXTERNAL TABLE poem (value STRING) STORED AS TEXT LOCATION 'sql/data/jabberwocky.txt';

CREATE FLOW fill TRIGGER AVAILABLE NOW CHECKPOINT 'out/kafka/word_count/fill'
AS INSERT INTO lines SELECT value FROM STREAM poem;

-- In update mode a batch gives the words that it changed.
CREATE FLOW count_words OUTPUT MODE update TRIGGER AVAILABLE NOW CHECKPOINT 'out/kafka/word_count/count_words'
AS INSERT INTO words
SELECT word AS key, CAST(count(*) AS STRING) AS value
FROM (SELECT explode(split(lower(CAST(value AS STRING)), '[^a-z]+')) AS word FROM STREAM lines) AS split_lines
WHERE word <> ''
GROUP BY word;

-- What is in the second topic: of each word the last count, which is the greatest.
CREATE FLOW show_words OUTPUT MODE complete TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT CAST(key AS STRING) AS word, max(CAST(CAST(value AS STRING) AS BIGINT)) AS times
FROM STREAM words
GROUP BY CAST(key AS STRING)
ORDER BY times DESC, word
LIMIT 8;
