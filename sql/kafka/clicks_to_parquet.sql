-- Web traffic, minute by minute: clicks from a Kafka topic, counted in windows, into Parquet files exactly once.
--
--   cargo run --features kafka -- run sql/kafka/clicks_to_parquet.sql
--
-- sql/kafka/README.md says how to make the topic, and how to name another broker.

-- One table, written first and read then. Values are JSON of the columns; a column with an underscore before its name
-- is another part of the message, here the key.
--
-- startingOffsets says where a flow begins that has read nothing yet; the default is what comes from now on. Later its
-- checkpoint knows. maxOffsetsPerTrigger bounds a batch, and each partition has a share of it by what is left there. So
-- partitions are read side by side, but where one had more clicks a minute than another, their times drift apart, here
-- by up to half a minute. With 'watermarkPer' 'partition' each has a watermark of its own and the least of them counts:
-- no row of a slower partition is late because another is ahead.
CREATE UNBOUNDED EXTERNAL TABLE clicks (
  _key STRING, url STRING, visitor BIGINT, channel STRING, ts TIMESTAMP,
  WATERMARK FOR ts AS ts - INTERVAL '10' SECOND
) STORED AS KAFKA
OPTIONS ('kafka.bootstrap.servers' 'localhost:9092', 'topic' 'millstream-clicks', 'format' 'json',
         'exactlyOnce' 'true', 'startingOffsets' 'earliest', 'maxOffsetsPerTrigger' '600', 'watermarkPer' 'partition');

-- So that there are clicks: the bids of an auction, of which each has a page, somebody who looked at it and a time. One
-- file a batch, since the files of a batch are read and written side by side: the clicks would not be in order.
CREATE UNBOUNDED EXTERNAL TABLE bids (bidder BIGINT, channel STRING, url STRING, date_time TIMESTAMP)
STORED AS JSON LOCATION 'sql/data/nexmark/bid/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE FLOW fill TRIGGER AVAILABLE NOW CHECKPOINT 'out/kafka/clicks_to_parquet/checkpoints/fill'
AS INSERT INTO clicks
SELECT CAST(bidder AS STRING) AS _key, url, bidder AS visitor,
       CASE WHEN channel LIKE 'channel-%' THEN 'other' ELSE channel END AS channel, date_time AS ts
FROM STREAM bids;

CREATE EXTERNAL TABLE traffic STORED AS PARQUET LOCATION 'out/kafka/clicks_to_parquet/traffic/';

-- A minute leaves once, when the watermark has passed its end. The last one stays open, in the checkpoint.
CREATE FLOW count_clicks OUTPUT MODE append TRIGGER AVAILABLE NOW
  CHECKPOINT 'out/kafka/clicks_to_parquet/checkpoints/count_clicks'
AS INSERT INTO traffic
SELECT window.start AS minute, channel, count(*) AS clicks, count(DISTINCT visitor) AS visitors
FROM STREAM clicks
GROUP BY window(ts, '1 minute'), channel;

SELECT minute, sum(clicks) AS clicks, max(clicks) AS most_of_a_channel FROM traffic GROUP BY minute ORDER BY minute;
