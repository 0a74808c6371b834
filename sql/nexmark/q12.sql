-- Nexmark q12, processing-time windows: how many bids of each user came in each ten seconds of the clock? The clock
-- stands still during a batch. It is the event time here, so that windows that are over are forgotten.

CREATE UNBOUNDED EXTERNAL TABLE bid (bidder BIGINT)
STORED AS JSON LOCATION 'sql/data/nexmark/bid/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE EXTERNAL TABLE counts STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW q12 OUTPUT MODE update TRIGGER AVAILABLE NOW
AS INSERT INTO counts
SELECT bidder, count(*) AS bids, window.start AS start_time, window.end AS end_time
FROM STREAM bid WATERMARK now() AS came DELAY OF INTERVAL 0 SECONDS
GROUP BY window(came, '10 seconds'), bidder;
