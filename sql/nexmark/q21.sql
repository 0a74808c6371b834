-- Nexmark q21, channel ids: the number of each bid's channel, known or from its address; bids without are left out.

CREATE UNBOUNDED EXTERNAL TABLE bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel STRING, url STRING, date_time TIMESTAMP,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
)
STORED AS JSON LOCATION 'sql/data/nexmark/bid/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE EXTERNAL TABLE channel_ids STORED AS PARQUET LOCATION 'out/nexmark/q21/';

CREATE FLOW q21 OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO channel_ids
SELECT auction, bidder, price, channel,
       CASE lower(channel)
         WHEN 'apple' THEN '0'
         WHEN 'google' THEN '1'
         WHEN 'facebook' THEN '2'
         WHEN 'baidu' THEN '3'
         ELSE regexp_extract(url, '(&|^)channel_id=([^&]*)', 2)
       END AS channel_id
FROM STREAM bid
WHERE lower(channel) IN ('apple', 'google', 'facebook', 'baidu') OR url RLIKE '(&|^)channel_id=';
