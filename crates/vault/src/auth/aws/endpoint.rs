//! Where the security token service of each region stands. From this table, or from the mount's configuration; never from
//! what a caller sends.

/// Partitions, the suffix of their hosts, and their regions.
const PARTITIONS: &[(&str, &str, &[&str])] = &[
    (
        "aws",
        "amazonaws.com",
        &[
            "af-south-1",
            "ap-east-1",
            "ap-east-2",
            "ap-northeast-1",
            "ap-northeast-2",
            "ap-northeast-3",
            "ap-south-1",
            "ap-south-2",
            "ap-southeast-1",
            "ap-southeast-2",
            "ap-southeast-3",
            "ap-southeast-4",
            "ap-southeast-5",
            "ap-southeast-6",
            "ap-southeast-7",
            "ca-central-1",
            "ca-west-1",
            "eu-central-1",
            "eu-central-2",
            "eu-north-1",
            "eu-south-1",
            "eu-south-2",
            "eu-west-1",
            "eu-west-2",
            "eu-west-3",
            "il-central-1",
            "me-central-1",
            "me-south-1",
            "me-west-1",
            "mx-central-1",
            "sa-east-1",
            "sa-west-1",
            "us-east-1",
            "us-east-2",
            "us-west-1",
            "us-west-2",
        ],
    ),
    ("aws-cn", "amazonaws.com.cn", &["cn-north-1", "cn-northwest-1"]),
    ("aws-us-gov", "amazonaws.com", &["us-gov-east-1", "us-gov-west-1"]),
    ("aws-eusc", "amazonaws.eu", &["eusc-de-east-1"]),
];
/// Of the partition `aws`; what is sent there is signed for us-east-1.
pub(super) const GLOBAL: &str = "sts.amazonaws.com";
const GLOBAL_REGION: &str = "us-east-1";

/// A region that is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) name: &'static str,
    pub(super) partition: &'static str,
    suffix: &'static str,
}

/// By its name, as it stands in a credential's scope.
pub(super) fn region(name: &str) -> Option<Region> {
    PARTITIONS.iter().find_map(|(partition, suffix, regions)| {
        let name = regions.iter().find(|known| **known == name)?;
        Some(Region { name, partition, suffix })
    })
}

pub(super) fn is_partition(name: &str) -> bool {
    PARTITIONS.iter().any(|(partition, ..)| *partition == name)
}

impl Region {
    /// What requests that are signed for this region may have in `Host`.
    pub(super) fn hosts(self) -> Vec<String> {
        let own = format!("sts.{}.{}", self.name, self.suffix);
        if self.name == GLOBAL_REGION { vec![own, GLOBAL.to_owned()] } else { vec![own] }
    }

    /// The service itself, or its endpoint within a network of its customer's: names that nobody else gets. Of others under
    /// the suffix many are customers' own.
    pub(super) fn is_service(self, host: &str) -> bool {
        let within = format!(".sts.{}.vpce.{}", self.name, self.suffix);
        host.ends_with(&within) || self.hosts().iter().any(|own| own == host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_the_service_itself_by_names_that_nobody_else_gets() {
        for (name, host, is_service) in [
            ("us-east-1", GLOBAL, true),
            ("eu-west-1", GLOBAL, false),
            ("eu-west-1", "sts.eu-west-1.amazonaws.com", true),
            ("eu-west-1", "vpce-1.sts.eu-west-1.vpce.amazonaws.com", true),
            ("eu-west-1", "vpce-1.sts.us-east-1.vpce.amazonaws.com", false),
            ("cn-north-1", "vpce-1.sts.cn-north-1.vpce.amazonaws.com.cn", true),
            ("eu-west-1", "x.execute-api.eu-west-1.amazonaws.com", false),
            ("eu-west-1", "vpce-svc-1.eu-west-1.vpce.amazonaws.com", false),
            ("eu-west-1", "evilsts.eu-west-1.vpce.amazonaws.com", false),
            ("eu-west-1", "vpce-1.sts.eu-west-1.vpce.amazonaws.com.evil.example", false),
            ("eu-west-1", "sts.example", false),
        ] {
            assert_eq!(region(name).unwrap().is_service(host), is_service, "{name} {host}");
        }
    }

    #[test]
    fn a_regions_host_comes_from_the_table() {
        for (name, partition, hosts) in [
            ("us-east-1", "aws", vec!["sts.us-east-1.amazonaws.com", GLOBAL]),
            ("eu-central-1", "aws", vec!["sts.eu-central-1.amazonaws.com"]),
            ("cn-north-1", "aws-cn", vec!["sts.cn-north-1.amazonaws.com.cn"]),
            ("us-gov-west-1", "aws-us-gov", vec!["sts.us-gov-west-1.amazonaws.com"]),
        ] {
            let found = region(name).unwrap();
            assert_eq!(
                (found.partition, found.hosts()),
                (partition, hosts.iter().map(|host| (*host).to_owned()).collect())
            );
        }
        for unknown in ["", "us-east-9", "US-EAST-1", "us-east-1 ", "us-east-1.evil.example", "aws"] {
            assert_eq!(region(unknown), None, "{unknown}");
        }
    }
}
