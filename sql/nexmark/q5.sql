-- Nexmark q5, hot items: which auctions had the most bids in the last ten seconds, every two seconds?

CREATE UNBOUNDED EXTERNAL TABLE bid (
  auction BIGINT, date_time TIMESTAMP,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
)
STORED AS JSON LOCATION 'sql/data/nexmark/bid/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE EXTERNAL TABLE hot_items STORED AS PARQUET LOCATION 'out/nexmark/q5/';

CREATE FLOW q5 OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO hot_items
SELECT counted.window_start, counted.window_end, counted.auction, counted.bids
FROM (
  SELECT window_start, window_end, auction, count(*) AS bids
  FROM HOP(STREAM bid, DESCRIPTOR(date_time), INTERVAL '2' SECOND, INTERVAL '10' SECOND)
  GROUP BY window_start, window_end, auction
) AS counted
JOIN (
  SELECT window_start, window_end, max(bids) AS most_bids
  FROM (
    SELECT window_start, window_end, auction, count(*) AS bids
    FROM HOP(STREAM bid, DESCRIPTOR(date_time), INTERVAL '2' SECOND, INTERVAL '10' SECOND)
    GROUP BY window_start, window_end, auction
  ) AS again
  GROUP BY window_start, window_end
) AS greatest
  ON counted.window_start = greatest.window_start AND counted.window_end = greatest.window_end
  AND counted.bids >= greatest.most_bids;
